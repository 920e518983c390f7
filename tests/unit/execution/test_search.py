"""A search goes on wherever it was stopped, no trial is executed twice, and hopeless ones are stopped."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from fcn import runs
from fcn.config import Config, ConfigError, Init, ModelConfig
from fcn.config.overrides import values_by_key
from fcn.execution.jobs import Job
from fcn.execution.optuna_study import latest_trials, parameter_importances
from fcn.execution.search import Search
from fcn.execution.search_plan import PrunerName, SearchPlan
from fcn.execution.search_space import parse_space
from fcn.runs import Status

SPACE = {"lr": {"low": 1e-4, "high": 1e-1, "log": True}, "model.init": {"choices": ["bilinear", "xavier"]}}


def compose(overrides) -> Config:
    """As Hydra does it for these keys, in a hundredth of the time."""
    values = {"lr": "0.001", "batch_size": "16", "model.init": "bilinear", **values_by_key(overrides)}
    model = ModelConfig(init=Init(values["model.init"]))
    return Config(name="x", epochs=3, lr=float(values["lr"]), batch_size=int(values["batch_size"]), model=model)


def plan(folder: Path, **changes) -> SearchPlan:
    facts = {
        "folder": folder,
        "space": parse_space(SPACE),
        "fixed": ["batch_size=4"],
        "config": compose(["batch_size=4"]),
    }
    return SearchPlan(**{**facts, "config": compose(["batch_size=4"]), "compose": compose, "trials": 4, **changes})


@pytest.fixture(scope="module")
def database(tmp_path_factory) -> Path:
    """An empty one: to make its tables takes longer than most of the tests."""
    path = tmp_path_factory.mktemp("database") / "study.db"
    optuna.storages.RDBStorage(f"sqlite:///{path}")
    return path


@pytest.fixture
def folder(tmp_path, database) -> Path:
    (tmp_path / "search").mkdir()
    shutil.copy(database, tmp_path / "search")
    return tmp_path / "search"


def write(job: Job, *scores: float, status: str = "interrupted") -> None:
    """What a run leaves behind after validations with these scores."""
    runs.write_metrics(job.run_dir, [{"epoch": epoch, "val/mean_iou": score} for epoch, score in enumerate(scores)])
    best = {"epoch": 0, "val/mean_iou": max((score for score in scores if score == score), default=None)}
    runs.write_summary(job.run_dir, {"status": status, "metrics": {}, "best": best})


def finish(search: Search, job: Job, *scores: float) -> None:
    write(job, *scores, status="finished")
    job.state = Status.finished
    search.update(job)


def drawn(search: Search, count: int) -> list[Job]:
    jobs = search.next_jobs(search.update)
    return [next(jobs) for _ in range(count)]


def numbers(jobs: list[Job]) -> list[int]:
    return [int(job.run_dir.name.partition("_")[0]) for job in jobs]


def states(search: Search) -> list[TrialState]:
    return [trial.state for trial in search.study.trials]


def test_a_trial_is_a_run_directory(folder):
    search = Search.open(plan(folder, trials=2))
    jobs = []
    for job in search.next_jobs(search.update):
        jobs.append(job)
        finish(search, job, 0.1, 0.3 + len(jobs), 0.2)
    assert numbers(jobs) == [0, 1]
    for job, trial in zip(jobs, search.study.trials, strict=True):
        config = runs.load_config(job.run_dir)
        assert (config.lr, str(config.model.init)) == (trial.params["lr"], trial.params["model.init"])
        assert config.batch_size == 4
        assert compose(runs.load_overrides(job.run_dir)) == config
        assert job.run_dir.name == f"{trial.number}_lr-{config.lr:.3g}_init-{config.model.init}"
        assert trial.intermediate_values == {1: 0.1, 2: 1.3 + trial.number, 3: 0.2}
    assert [trial.value for trial in search.study.trials] == [1.3, 2.3]  # the best epoch's, not the last one's


def _killed_amid_two_trials(folder: Path) -> None:
    search = Search.open(plan(folder))
    first, _ = drawn(search, 2)
    write(first, 0.1, 0.2)
    search.update(first)
    search._next_trial()  # a third one, of which nothing is known yet
    os.kill(os.getpid(), signal.SIGKILL)


def test_after_sigkill_every_trial_goes_on_in_its_directory_and_is_told_once(folder):
    process = multiprocessing.get_context("fork").Process(target=_killed_amid_two_trials, args=(folder,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    before = {path.name for path in folder.iterdir() if path.is_dir()}
    assert len(before) == 2
    search = Search.open(plan(folder))
    assert states(search) == [TrialState.RUNNING] * 3
    jobs = list(search.next_jobs(search.update))
    assert numbers(jobs) == [0, 1, 2, 3]
    assert {job.run_dir.name for job in jobs[:2]} == before
    for job in jobs:
        finish(search, job, 0.1, 0.2, 0.3)
    assert states(search) == [TrialState.COMPLETE] * 4
    assert all(trial.intermediate_values == {1: 0.1, 2: 0.2, 3: 0.3} for trial in search.study.trials)
    assert all(set(trial.params) == set(SPACE) for trial in search.study.trials)
    assert list(search.next_jobs(search.update)) == []


def test_two_processes_share_the_trials(folder):
    """Locks belong to open files: two searches of one process are to each other as those of two."""
    one, other = Search.open(plan(folder)), Search.open(plan(folder))
    mine, theirs = one.next_jobs(one.update), other.next_jobs(other.update)
    jobs = [next(mine), next(theirs), next(mine)]
    finish(one, jobs[0], 0.1)
    jobs.append(next(theirs))
    assert numbers(jobs) == [0, 1, 2, 3]
    assert next(mine, None) is None
    assert next(theirs, None) is None
    assert len({trial.params["lr"] for trial in one.study.trials}) == 4


def test_a_run_that_finished_untold_is_told_and_not_executed(folder):
    first = Search.open(plan(folder, trials=1))
    (job,) = drawn(first, 1)
    write(job, 0.5, status="finished")
    first._owned[job].owner.close()  # its process ends
    second, seen = Search.open(plan(folder, trials=1)), []
    assert list(second.next_jobs(seen.append)) == []
    assert [job.state for job in seen] == [Status.finished]
    assert [(trial.state, trial.value) for trial in second.study.trials] == [(TrialState.COMPLETE, 0.5)]


def test_a_stopped_trial_stays_running_and_goes_on(folder):
    search = Search.open(plan(folder))
    (job,) = drawn(search, 1)
    job.state = Status.interrupted
    search.update(job)
    assert states(search) == [TrialState.RUNNING]
    (again,) = drawn(search, 1)
    assert again.run_dir == job.run_dir


def add_finished(search: Search, *scores: float) -> None:
    """As many finished trials with these scores in the first epoch, after which all are good."""
    distributions = {
        "lr": optuna.distributions.FloatDistribution(1e-4, 1e-1, log=True),
        "model.init": optuna.distributions.CategoricalDistribution(["bilinear", "xavier"]),
    }
    for score in scores:
        facts = {"params": {"lr": 0.1 * score, "model.init": "xavier"}, "distributions": distributions}
        search.study.add_trial(
            optuna.trial.create_trial(value=0.9, intermediate_values={1: score, 2: 0.9, 3: 0.9}, **facts)
        )


def test_what_is_suggested_does_not_depend_on_stops(folder, tmp_path):
    """Of the ten random trials that Optuna's sampler starts with the last one, and two that it learned from them."""
    other = tmp_path / "stopped" / folder.name
    shutil.copytree(folder, other)
    found = []
    for once, place in ((True, folder), (False, other)):
        search = Search.open(plan(place, trials=12))
        add_finished(search, *(0.1 * number for number in range(1, 10)))
        for score in (0.5, 0.7, 0.3):
            search = search if once else Search.open(plan(place, trials=12))
            finish(search, drawn(search, 1)[0], score)
        found.append([trial.params for trial in search.study.trials[-3:]])
    assert found[0] == found[1]
    assert len({params["lr"] for params in found[0]}) == 3


@pytest.fixture
def running():
    """Makes a job look started: a process that signals end."""
    processes = []

    def start(job: Job) -> Job:
        line = [sys.executable, "-S", "-c", "import time; time.sleep(60)"]
        processes.append(subprocess.Popen(line, start_new_session=True))
        job._process, job.state = processes[-1], Status.running
        return job

    yield start
    for process in processes:
        process.kill()
        process.wait()


def five_finished(folder: Path, **changes) -> Search:
    """A search with five trials, whose median in the first epoch is 0.3."""
    search = Search.open(plan(folder, trials=6, **changes))
    add_finished(search, 0.1, 0.2, 0.3, 0.4, 0.5)
    return search


def test_a_trial_below_the_median_is_stopped(folder, running):
    search = five_finished(folder)
    job = running(drawn(search, 1)[0])
    write(job, 0.31)
    search.update(job)
    assert job._process.poll() is None
    write(job, 0.29)  # the same epoch: what was reported counts
    search.update(job)
    assert job._process.poll() is None
    write(job, 0.31, 0.8)
    search.update(job)
    assert job._process.wait(10) == -signal.SIGTERM
    assert job.poll()
    search.update(job)
    trial = search.study.trials[5]
    assert (job.state, trial.state, trial.value) == (Status.pruned, TrialState.PRUNED, 0.8)
    assert list(search.next_jobs(search.update)) == []


@pytest.mark.parametrize(
    ("scores", "pruner"),
    [((0.1, 0.1, 0.1), PrunerName.median), ((0.1,), PrunerName.none), ((float("nan"),), PrunerName.median)],
    ids=["the last epoch", "no pruner", "not measured"],
)
def test_what_is_not_stopped(folder, running, scores, pruner):
    search = five_finished(folder, pruner=pruner)
    job = running(drawn(search, 1)[0])
    write(job, *scores)
    search.update(job)
    with pytest.raises(subprocess.TimeoutExpired):
        job._process.wait(0.1)


@pytest.mark.parametrize(("by_us", "state"), [(True, TrialState.RUNNING), (False, TrialState.FAIL)])
def test_a_trial_that_is_killed(folder, running, by_us, state):
    """By a second Ctrl-C it goes on next time; by the system, which has no memory for it, it has failed."""
    search = Search.open(plan(folder))
    job = running(drawn(search, 1)[0])
    (job.run_dir / runs.CONSOLE).touch()
    job.kill() if by_us else job._process.kill()
    job._process.wait()
    assert job.poll()
    search.update(job)
    assert states(search) == [state]


def test_hyperband_stops_the_worst(folder):
    study = Search.open(plan(folder, pruner=PrunerName.hyperband)).study
    stopped = []
    for score in range(12, 0, -1):
        trial = study.ask()
        trial.report(score, 1)
        stopped.append(trial.should_prune())
        study.tell(trial, None if stopped[-1] else score, state=TrialState.PRUNED if stopped[-1] else None)
    assert not stopped[0]
    assert any(stopped)


def test_a_failed_trial_has_its_reason_and_the_search_goes_on(folder):
    search = Search.open(plan(folder))
    first, second = drawn(search, 2)
    first.state, first.reason = Status.failed, "train/loss became nan"
    search.update(first)
    write(second, status="finished")
    second.state = Status.finished
    search.update(second)
    assert states(search) == [TrialState.FAIL] * 2
    reasons = [trial.user_attrs["reason"] for trial in search.study.trials]
    assert reasons == ["train/loss became nan", "the run has no validation mean IoU"]
    assert numbers(drawn(search, 1)) == [2]


def fail(search: Search, job: Job, reason: str = "no space left on device") -> None:
    job.state, job.reason = Status.failed, reason
    search.update(job)


def test_what_failed_is_done_again_by_the_same_command(folder):
    search = Search.open(plan(folder, trials=2))
    jobs = search.next_jobs(search.update)
    bad = next(jobs)
    fail(search, bad)
    for job in jobs:  # not within one go
        assert job.run_dir != bad.run_dir
        finish(search, job, 0.5)
    search, other = Search.open(plan(folder, trials=2)), Search.open(plan(folder, trials=2))
    for job in search.next_jobs(search.update):
        assert job.run_dir == bad.run_dir
        finish(search, job, 0.2, 0.7)
    trials = latest_trials(search.study)
    assert [trial.value for trial in trials] == [0.5, 0.7]
    assert trials[-1].params == search.study.trials[0].params
    assert trials[-1].intermediate_values == {1: 0.2, 2: 0.7}
    assert list(other.next_jobs(other.update)) == []  # a second process knew of the failure too


def test_a_search_all_of_whose_trials_fail_stops_and_goes_on_when_the_reason_is_gone(folder):
    search = Search.open(plan(folder, trials=4))
    for job in search.next_jobs(search.update):
        fail(search, job)
    assert numbers(search.jobs) == [0, 1, 2]
    assert search.given_up == f"the first 3 trials failed, {search.jobs[0].run_dir}: no space left on device"
    assert numbers(drawn(Search.open(plan(folder, trials=3)), 1)) == [0]


def test_values_that_do_not_go_together_fail_their_trial_alone(folder):
    def picky(overrides):
        if "model.init=xavier" in overrides:
            raise ConfigError("model.init (=xavier) must not be; use another")
        return compose(overrides)

    search, seen = Search.open(plan(folder, compose=picky, trials=5)), []
    jobs = list(search.next_jobs(seen.append))
    assert 0 < len(jobs) < 5
    assert {job.reason for job in seen} == {"model.init (=xavier) must not be; use another"}
    assert states(search).count(TrialState.FAIL) == len(seen) == 5 - len(jobs)
    assert not any("run" in trial.user_attrs for trial in search.study.trials if trial.state is TrialState.FAIL)


def test_another_search_in_the_folder(folder):
    Search.open(plan(folder))
    with pytest.raises(
        ConfigError, match=r"holds a search that differs in lr; use another name=\.\.\., or leave these"
    ):
        Search.open(plan(folder, config=compose(["batch_size=4", "lr=0.5"])))
    with pytest.raises(ConfigError, match=r"holds a search that differs in search;"):
        Search.open(plan(folder, space=parse_space({"lr": SPACE["lr"]})))


def test_another_run_in_the_way(folder):
    runs.create(folder / drawn(Search.open(plan(folder)), 1)[0].run_dir.name / "elsewhere", compose([]))
    (folder / "study.db").unlink()
    (run_dir,) = (path for path in folder.iterdir() if path.is_dir())
    (run_dir / "elsewhere" / "config.yaml").replace(run_dir / "config.yaml")
    with pytest.raises(ConfigError, match=r"holds a run that differs in lr, batch_size.*; use another name=\.\.\."):
        drawn(Search.open(plan(folder)), 1)


def test_a_storage_that_is_none(folder):
    with pytest.raises(ConfigError, match=r"storage \(=foo://x\) must be a database that Optuna can open: Can't load"):
        Search.open(plan(folder, storage="foo://x"))


def test_a_folder_may_have_any_name(folder):
    odd = folder.rename(folder.with_name("a?b#c%20d"))
    Search.open(plan(odd))
    assert [path.name for path in odd.parent.iterdir()] == [odd.name]


def test_a_storage_with_the_search_of_another_folder(folder):
    shared = folder.rename(folder.with_name("shared")) / "study.db"
    storage = f"sqlite:///{shared}"
    Search.open(plan(folder, storage=storage))
    other = folder.parent / "elsewhere" / folder.name
    with pytest.raises(
        ConfigError, match=r"storage \(=sqlite.*\) holds the search of another folder; use another name"
    ):
        Search.open(plan(other, storage=storage))
    Search.open(plan(folder, storage=storage))


def test_importances_name_what_matters(folder):
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    assert parameter_importances(study) == {}
    for _ in range(50):
        trial = study.ask()
        lr, _ = trial.suggest_float("lr", 0, 1), trial.suggest_float("x", 0, 1)
        study.tell(trial, -abs(lr - 0.5))
    shares = parameter_importances(study)
    assert next(iter(shares)) == "lr"
    assert shares["lr"] > 0.8
    assert sum(shares.values()) == pytest.approx(1)

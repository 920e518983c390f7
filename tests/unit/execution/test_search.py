"""Searches are resumed wherever they were stopped, execute no trial twice, and prune trials."""

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
from fcn.cli import tune
from fcn.config import Config, ConfigError, TrainerConfig, option
from fcn.config.choices import Init
from fcn.config.overrides import values_by_key
from fcn.errors import RunFailure
from fcn.execution.jobs import Job
from fcn.execution.search import Search
from fcn.execution.search_locks import OWNER_LOCK
from fcn.execution.search_plan import JOURNAL, PrunerName, SearchPlan
from fcn.execution.search_space import parse_space
from fcn.execution.study_storage import explaining_storage_failures, list_trials
from fcn.runs import Status

SPACE = {"lr": {"low": 1e-4, "high": 1e-1, "log": True}, "model.init": {"choices": ["bilinear", "xavier"]}}


def compose(overrides) -> Config:
    """Compose these keys like Hydra, in a hundredth of the time."""
    values = {"lr": "0.001", "batch_size": "16", "model.init": "bilinear", **values_by_key(overrides)}
    model = option("model", "fcn32s", init=Init(values["model.init"]))
    return Config(name="x", epochs=3, lr=float(values["lr"]), batch_size=int(values["batch_size"]), model=model)


def plan(folder: Path, **changes) -> SearchPlan:
    fixed = ["batch_size=4"]
    facts = {"space": parse_space(SPACE), "fixed": fixed, "config": compose(fixed), "compose": compose, "trials": 4}
    return SearchPlan(folder=folder, **{**facts, **changes})


@pytest.fixture(scope="module")
def database(tmp_path_factory) -> Path:
    """Return an empty database; creating its tables takes longer than most of the tests."""
    path = tmp_path_factory.mktemp("database") / "study.db"
    optuna.storages.RDBStorage(f"sqlite:///{path}")
    return path


@pytest.fixture
def folder(tmp_path, database) -> Path:
    (tmp_path / "search").mkdir()
    shutil.copy(database, tmp_path / "search")
    return tmp_path / "search"


@pytest.fixture(params=[None, JOURNAL, "url"])
def storage(request, folder, database, tmp_path) -> str | None:
    """Every kind of storage."""
    if request.param != "url":
        return request.param
    shutil.copy(database, tmp_path / "shared.db")
    return f"sqlite:///{tmp_path}/shared.db"


def write(job: Job, *scores: float, status: str = "interrupted") -> None:
    """Write the files of a run after validations with these scores."""
    runs.write_metrics(job.run_dir, [{"epoch": epoch, "val/mean_iou": score} for epoch, score in enumerate(scores)])
    best = {"epoch": 0, "val/mean_iou": max((score for score in scores if score == score), default=None)}
    runs.write_summary(job.run_dir, {"status": status, "metrics": {}, "best": best})


def finish(search: Search, job: Job, *scores: float) -> None:
    write(job, *scores, status="finished")
    job.state = Status.finished
    search.update(job)


def next_jobs(search: Search, count: int) -> list[Job]:
    jobs = search.next_jobs(search.update)
    return [next(jobs) for _ in range(count)]


def numbers(jobs: list[Job]) -> list[int]:
    return [int(job.run_dir.name.partition("_")[0]) for job in jobs]


def states(search: Search) -> list[TrialState]:
    return [trial.state for trial in search.study.trials]


def test_each_trial_is_a_run_directory(folder):
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


def test_trial_of_steps_is_not_pruned_after_its_last_validation(folder):
    """Rows of metrics.csv are reported by their number: several may lie within one epoch."""
    search = Search.open(plan(folder, pruner=PrunerName.none))
    (job,) = next_jobs(search, 1)
    search._owned[job].config = Config(epochs=None, steps=5)
    search._owned[job].trial.should_prune = lambda: True
    job.state = Status.running
    rows = [{"epoch": 0, "step": step, "val/mean_iou": step / 10} for step in (2, 4, 5)]
    runs.write_metrics(job.run_dir, rows)
    search.update(job)
    assert list_trials(search.study)[0].intermediate_values == {1: 0.2, 2: 0.4, 3: 0.5}
    assert not search._owned[job].pruned


def _killed_amid_two_trials(folder: Path, storage: str | None) -> None:
    search = Search.open(plan(folder, storage=storage))
    first, _ = next_jobs(search, 2)
    write(first, 0.1, 0.2)
    search.update(first)
    search._next_trial()  # a third trial without results
    os.kill(os.getpid(), signal.SIGKILL)


def test_after_sigkill_every_trial_is_resumed_in_its_directory_and_reported_once(folder, storage):
    process = multiprocessing.get_context("fork").Process(target=_killed_amid_two_trials, args=(folder, storage))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    before = {path.name for path in folder.iterdir() if path.is_dir()}
    assert len(before) == 2
    search = Search.open(plan(folder, storage=storage))
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


def test_two_processes_share_the_trials(folder, storage):
    """Locks belong to open files, so two searches of one process behave like those of two processes."""
    one, other = (Search.open(plan(folder, storage=storage)) for _ in range(2))
    mine, theirs = one.next_jobs(one.update), other.next_jobs(other.update)
    jobs = [next(mine), next(theirs), next(mine)]
    finish(one, jobs[0], 0.1)
    jobs.append(next(theirs))
    assert numbers(jobs) == [0, 1, 2, 3]
    assert next(mine, None) is None
    assert next(theirs, None) is None
    assert len({trial.params["lr"] for trial in one.study.trials}) == 4


def test_command_that_ends_first_mentions_the_trials_of_other_processes(folder, capsys):
    other = Search.open(plan(folder, trials=1))
    (job,) = next_jobs(other, 1)
    tune._execute(plan(folder, trials=1), [{}])
    *_, line = capsys.readouterr().out.splitlines()
    assert line == "running  1 trial in other processes; if these are killed, the same command resumes their trials"
    finish(other, job, 0.5)
    tune._execute(plan(folder, trials=1), [{}])
    assert "in other processes" not in capsys.readouterr().out


def test_finished_run_of_an_abandoned_trial_is_reported_and_not_executed(folder):
    first = Search.open(plan(folder, trials=1))
    (job,) = next_jobs(first, 1)
    write(job, 0.5, status="finished")
    first._owned[job].owner.close()  # its process ends
    second, seen = Search.open(plan(folder, trials=1)), []
    assert list(second.next_jobs(seen.append)) == []
    assert [job.state for job in seen] == [Status.finished]
    assert [(trial.state, trial.value) for trial in second.study.trials] == [(TrialState.COMPLETE, 0.5)]


def test_stopped_trial_stays_running_and_is_resumed(folder):
    search = Search.open(plan(folder))
    (job,) = next_jobs(search, 1)
    job.state = Status.interrupted
    search.update(job)
    assert states(search) == [TrialState.RUNNING]
    (again,) = next_jobs(search, 1)
    assert again.run_dir == job.run_dir


def test_trial_that_another_machine_has_resumed_is_stopped_and_not_reported(folder, running):
    """After a pause of this machine that was longer than the time after which its trials count as abandoned."""
    search = Search.open(plan(folder, storage=JOURNAL))
    job = running(next_jobs(search, 1)[0])
    (job.run_dir / OWNER_LOCK).write_text("process 1 on another-machine")
    write(job, 0.5, status="finished")
    search.update(job)
    assert job._process.wait(10) == -signal.SIGKILL
    (job.run_dir / runs.CONSOLE).touch()
    assert job.poll()
    search.update(job)
    (trial,) = search.study.trials
    assert (trial.state, trial.intermediate_values, job.state) == (TrialState.RUNNING, {}, Status.interrupted)
    second, third = next_jobs(search, 2)
    assert numbers([second, third]) == [1, 2]


def add_finished(search: Search, *scores: float) -> None:
    """Add finished trials with these scores in the first epoch and equal scores afterwards."""
    distributions = {
        "lr": optuna.distributions.FloatDistribution(1e-4, 1e-1, log=True),
        "model.init": optuna.distributions.CategoricalDistribution(["bilinear", "xavier"]),
    }
    for score in scores:
        facts = {"params": {"lr": 0.1 * score, "model.init": "xavier"}, "distributions": distributions}
        search.study.add_trial(
            optuna.trial.create_trial(value=0.9, intermediate_values={1: score, 2: 0.9, 3: 0.9}, **facts)
        )


def test_suggested_values_depend_neither_on_stops_nor_on_the_storage(folder, tmp_path):
    """Tests the last of the ten random trials of Optuna's sampler, and two trials that depend on earlier scores."""
    suggestions = []
    for once, storage, place in ((True, None, "one"), (False, None, "stopped"), (False, JOURNAL, "journal")):
        shutil.copytree(folder, tmp_path / place / folder.name)
        facts = plan(tmp_path / place / folder.name, trials=12, storage=storage)
        search = Search.open(facts)
        add_finished(search, *(0.1 * number for number in range(1, 10)))
        for score in (0.5, 0.7, 0.3):
            search = search if once else Search.open(facts)
            finish(search, next_jobs(search, 1)[0], score)
        suggestions.append([trial.params for trial in search.study.trials[-3:]])
    assert suggestions[0] == suggestions[1] == suggestions[2]
    assert len({params["lr"] for params in suggestions[0]}) == 3


def test_processes_suggest_different_values_at_the_same_time(folder):
    """No process knows a score of the others' trials; half of the trials are random, and half by Optuna's sampler."""
    searches = [Search.open(plan(folder, trials=30, storage=JOURNAL)) for _ in range(8)]
    for number, search in enumerate(searches):
        if number == 4:
            add_finished(search, *(0.05 * score for score in range(1, 13)))
        next_jobs(search, 1)
    values = [trial.params["lr"] for trial in list_trials(searches[0].study, TrialState.RUNNING)]
    assert len(set(values)) == len(values) == 8


@pytest.fixture
def running():
    """Give a job a running process that ends after a signal."""
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
    """Return a search with five finished trials, whose median score in the first epoch is 0.3."""
    search = Search.open(plan(folder, trials=6, **changes))
    add_finished(search, 0.1, 0.2, 0.3, 0.4, 0.5)
    return search


def test_trial_below_the_median_is_pruned(folder, running):
    search = five_finished(folder)
    job = running(next_jobs(search, 1)[0])
    write(job, 0.31)
    search.update(job)
    assert job._process.poll() is None
    write(job, 0.29)  # the same epoch: the reported score is used
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


def test_trial_is_compared_with_those_of_other_processes(folder, storage, running):
    mine = Search.open(plan(folder, trials=6, storage=storage))
    job = running(next_jobs(mine, 1)[0])
    other = Search.open(plan(folder, trials=6, storage=storage))
    add_finished(other, 0.1, 0.2, 0.3, 0.4, 0.5)
    write(job, 0.29)
    mine.update(job)
    assert job._process.wait(10) == -signal.SIGTERM


@pytest.mark.parametrize(
    ("scores", "pruner"),
    [((0.1, 0.1, 0.1), PrunerName.median), ((0.1,), PrunerName.none), ((float("nan"),), PrunerName.median)],
    ids=["the last epoch", "no pruner", "not measured"],
)
def test_trial_is_not_pruned_at(folder, running, scores, pruner):
    search = five_finished(folder, pruner=pruner)
    job = running(next_jobs(search, 1)[0])
    write(job, *scores)
    search.update(job)
    with pytest.raises(subprocess.TimeoutExpired):
        job._process.wait(0.1)


@pytest.mark.parametrize(("by_us", "state"), [(True, TrialState.RUNNING), (False, TrialState.FAIL)])
def test_killed_trial(folder, running, by_us, state):
    """After a second Ctrl-C the trial can be resumed; if the system kills it, for example for memory, it has failed."""
    search = Search.open(plan(folder))
    job = running(next_jobs(search, 1)[0])
    (job.run_dir / runs.CONSOLE).touch()
    job.kill() if by_us else job._process.kill()
    job._process.wait()
    assert job.poll()
    search.update(job)
    assert states(search) == [state]


@pytest.mark.parametrize(
    "length", [{"epochs": 3}, {"epochs": None, "steps": 11, "trainer": TrainerConfig(val_every_steps=4)}]
)
def test_hyperband_prunes_the_worst_trials(folder, length):
    config = Config(name="x", **length)
    study = Search.open(plan(folder, pruner=PrunerName.hyperband, config=config)).study
    stopped = []
    for score in range(12, 0, -1):
        trial = study.ask()
        trial.report(score, 1)
        stopped.append(trial.should_prune())
        study.tell(trial, None if stopped[-1] else score, state=TrialState.PRUNED if stopped[-1] else None)
    assert not stopped[0]
    assert any(stopped)


def test_failed_trial_has_a_reason_and_the_search_continues(folder):
    search = Search.open(plan(folder))
    first, second = next_jobs(search, 2)
    first.state, first.reason = Status.failed, "train/loss became nan"
    search.update(first)
    write(second, status="finished")
    second.state = Status.finished
    search.update(second)
    assert states(search) == [TrialState.FAIL] * 2
    reasons = [trial.user_attrs["reason"] for trial in search.study.trials]
    assert reasons == ["train/loss became nan", "the run has no validation mean IoU"]
    assert numbers(next_jobs(search, 1)) == [2]


def test_invalid_combination_of_values_fails_its_trial_only(folder):
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


def test_folder_of_another_search_is_refused(folder):
    Search.open(plan(folder))
    with pytest.raises(ConfigError, match=r"contains a search with other values of lr; use another name"):
        Search.open(plan(folder, config=compose(["batch_size=4", "lr=0.5"])))
    with pytest.raises(ConfigError, match=r"contains a search with other values of search;"):
        Search.open(plan(folder, space=parse_space({"lr": SPACE["lr"]})))


def test_search_from_before_a_key_existed_is_resumed_with_its_default(folder):
    search = Search.open(plan(folder))
    stored = {**search.study.user_attrs["settings"]}
    del stored["trainer.activation_checkpointing"], stored["trainer.dry_run_batch_sizes"]
    search.study.set_user_attr("settings", stored)
    Search.open(plan(folder))
    changed = compose(["batch_size=4"])
    changed.trainer.activation_checkpointing = True
    with pytest.raises(ConfigError, match=r"contains a search with other values of trainer.activation_checkpointing;"):
        Search.open(plan(folder, config=changed))


def test_truncated_line_of_a_journal_is_named_with_its_remedy(folder):
    journaled = plan(folder, storage=JOURNAL)
    search = Search.open(journaled)
    next_jobs(search, 1)
    with open(folder / "study.journal", "ab") as file:
        file.write(b'{"op_code": 4, "wor\n{}\n')
    message = r"study.journal must contain one JSON object per line: .*; a full disk can truncate a line: delete"
    with pytest.raises(RunFailure, match=message), explaining_storage_failures(journaled):
        list_trials(search.study)
    with pytest.raises(ConfigError, match=message):
        Search.open(journaled)


@pytest.mark.parametrize(("first", "second"), [(None, JOURNAL), (JOURNAL, None)])
def test_folder_of_a_search_with_another_storage_is_refused(folder, first, second):
    """Otherwise two studies would execute the same run directories."""
    Search.open(plan(folder, storage=first))
    search = Search.open(plan(folder, storage=second))  # no trial has been started: a mistake can be corrected
    next_jobs(search, 1)
    Search.open(plan(folder, storage=second))
    with pytest.raises(ConfigError, match=r"search contains a search with another storage=..., or one"):
        Search.open(plan(folder, storage=f"sqlite:///{folder.parent}/other.db"))


def test_search_of_another_folder_is_refused(folder, tmp_path):
    storage = f"sqlite:///{tmp_path}/shared.db?timeout=5"
    Search.open(plan(folder, storage=storage))
    with pytest.raises(ConfigError, match=r"storage \(=sqlite:.*shared.db\?\*\*\*\) contains a search of this name in"):
        Search.open(plan(tmp_path / "other" / folder.name, storage=storage))


@pytest.mark.parametrize(
    "storage",
    [
        "postgresql+none://user:s3cret@host/study",
        "sqlite:////none/study.db?uri=true&key=s3cret",
        "mysql+none://user:begin@s3cret@host/study?ssl_key=s3cret",
        "mysql://user:begin@s3cret/end@host",
    ],
)
def test_messages_contain_no_password(folder, storage):
    with pytest.raises(ConfigError, match=r"storage \(=\w+[+:]") as caught:
        Search.open(plan(folder, storage=storage))
    assert "s3cret" not in str(caught.value)
    assert "***" in str(caught.value)


def test_failure_of_the_storage_is_explained(folder):
    search = Search.open(plan(folder))
    (folder / "study.db").write_bytes(b"x" * 4096)
    message = r"study.db\) failed: .*file is not a database; the same command resumes the search"
    with pytest.raises(RunFailure, match=message), explaining_storage_failures(search.plan):
        search.study.ask()


def test_invalid_storage(folder):
    with pytest.raises(ConfigError, match=r"storage \(=foo://x\) must be null, journal, or .* open: Can't load"):
        Search.open(plan(folder, storage="foo://x"))


def test_folder_name_may_contain_special_characters(folder):
    odd = folder.rename(folder.with_name("a?b#c%20d"))
    Search.open(plan(odd))
    assert [path.name for path in odd.parent.iterdir()] == [odd.name]

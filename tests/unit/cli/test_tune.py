"""What a user of scripts/tune.py relies on: mistakes are one line, stops lose nothing, the best can be run again."""

import csv
import shlex
import sys
from types import SimpleNamespace

import optuna
import pytest
from rich.console import Console

import fcn
from fcn import runs
from fcn.config import ConfigError
from fcn.execution.search import Search
from fcn.execution.search_space import Entry, parse, suggest
from fcn.runs import Status
from tests.commands import TINY, load_command, type_in, wait_for

tune = load_command("tune")


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Exit status of the command with these arguments, its output and its errors."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: type_in(monkeypatch, capsys, "trainer=cpu", *arguments, script=tune)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["modl=fcn8s"], "unknown key modl; did you mean model?"),
        (["search=deflt"], "unknown option deflt of search; did you mean default?"),
        (["trials=0"], "trials (=0) must be at least 1"),
        (["search.lr.low=1"], "search.lr.low (=1) must be below its high (=0.1)"),
        (["+search.foo={choices:[1]}", "search=init"], "search.foo (=1): unknown key foo"),
        (["search.lr={choices: [1], low: 0}"], "search.lr must be either choices or a range"),
        (["resume=x"], "resume (=x) must be left out; the same command again goes on with a search"),
        (["search=init", "lr=1", "optim.head_lr_multiplier=1", "model/init=xavier"], "search=init must have an entry"),
    ],
)
def test_mistakes_are_one_line_before_anything_starts(run, tmp_path, arguments, message):
    status, out, err = run(*arguments)
    assert (status, out) == (1, "")
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1
    assert not (tmp_path / "outputs").exists()


def test_without_optuna_the_extra_is_named(monkeypatch):
    monkeypatch.delitem(sys.modules, "fcn.execution.search")
    monkeypatch.delattr("fcn.execution.search")
    monkeypatch.setitem(sys.modules, "optuna", None)  # so Python says that there is no such module
    with pytest.raises(ConfigError, match=r"tune\.py needs Optuna; use pip install -e \"\.\[tune\]\""):
        tune._search()


@pytest.fixture
def prepared(monkeypatch, capsys, tmp_path):
    """The plan of `tune.py ARGUMENTS`, composed by Hydra."""
    monkeypatch.chdir(tmp_path)

    def prepare(*arguments):
        found, original = [], tune.prepare

        def noting(*facts):
            found.append(original(*facts))
            raise SystemExit(0)

        monkeypatch.setattr(tune, "prepare", noting)
        assert type_in(monkeypatch, capsys, "trainer=cpu", *arguments, script=tune) == (0, "", "")
        return found[0]

    return prepare


def test_the_best_command_composes_the_best_run(prepared, capsys):
    """Groups, lists and texts with blanks come through the shell as they were."""
    plan, slots = prepared(
        "search=init", "trials=2", "slots=2", "data.root=a b$c", "data.crop_size=[64,32]", "optim=sgd", "name=best",
        "+search.schedule={choices:[poly]}", "lr=0.5",
    )  # fmt: skip
    assert len(slots) == 2
    assert list(plan.space) == ["model.init", "optim.head_lr_multiplier", "schedule"]
    search = Search.open(plan)
    for number, job in enumerate(search.draw(search.watch)):
        best = {"epoch": 0, "val/mean_iou": 0.5 - number / 10}
        runs.write_summary(job.run_dir, {"status": "finished", "metrics": {}, "best": best})
        job.state = Status.finished
        search.watch(job)
    tune.report(plan, search.study, Console(width=120))
    *_, where, line = (out := capsys.readouterr().out).splitlines()
    assert "choices  schedule: poly 0.500 in 2 trials\n" in out
    assert where.startswith("best     outputs/best/tune-init/0_init-")
    program, script, *overrides = shlex.split(line)
    assert (program, script) == ("python", "train.py")
    run_dir = next(plan.folder.glob("0_*"))
    config = runs.load_config(run_dir)
    assert fcn.compose(*overrides) == config
    assert (config.data.root, config.data.crop_size, config.lr, config.optim.name) == ("a b$c", [64, 32], 0.5, "sgd")
    with open(plan.folder / "trials.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["trial"], row["state"], row["val/mean_iou"]) for row in rows] == [
        ("0", "complete", "0.5"),
        ("1", "complete", "0.4"),
    ]
    assert rows[0]["run"] == run_dir.name
    assert float(rows[0]["optim.head_lr_multiplier"]) == config.optim.head_lr_multiplier
    assert {"history.png", "importance.png", "study.db"} <= {path.name for path in plan.folder.iterdir()}


def test_conditions_are_judged_on_what_was_composed():
    """However it was typed: 1e-3 is 0.001, and 'xavier' is xavier; what is typed may be in the space with a slash."""
    space = {
        "model/init": {"choices": ["bilinear", "xavier"]},
        "lr": {"choices": [0.001, 0.1]},
        "epochs": {"choices": [3, 4], "when": {"lr": 0.001}},
        "seed": {"choices": [1, 2], "when": {"model.init": "xavier"}},
        "batch_size": {"choices": [4, 8], "when": {"model/init": "bilinear"}},
    }
    config = tune.TuneConfig(search=space, slots=1)
    plan, _ = tune.prepare(config, ["trainer=cpu", "lr=1e-3", "model.init='xavier'"], "own")
    assert list(plan.space) == ["epochs", "seed", "batch_size"]
    assert list(suggest(optuna.create_study().ask(), plan.space, plan.values())) == ["epochs", "seed"]


def test_entries_of_any_key_can_be_typed(prepared):
    """Added, changed in part, and of another kind; with and without a plus."""
    plan, _ = prepared(
        "search.batch_size={choices: [4,8]}", "+search.optim.momentum={choices: [0.0,0.9]}",
        "search.optim.weight_decay={low: 1e-3}", "search.optim.head_lr_multiplier.high=3",
        "search.lr={choices: [0.1,0.2]}", "search.model.init={choices: [xavier]}", "search.schedule={choices: [poly]}",
    )  # fmt: skip
    assert [*plan.space][:2] == ["lr", "optim.weight_decay"]
    assert [*plan.space][-2:] == ["batch_size", "optim.momentum"]
    assert len(plan.space) == 7
    decay, head = plan.space["optim.weight_decay"], plan.space["optim.head_lr_multiplier"]
    assert (decay.low, decay.high, decay.log) == (1e-3, 1e-1, True)
    assert (head.low, head.high, head.log) == (0.3, 3, True)
    assert plan.space["lr"] == Entry(choices=[0.1, 0.2])
    assert plan.space["model.init"].choices == ["xavier"]


def test_every_choice_has_its_best_score_and_its_number_of_trials():
    """A choice that the sampler left early is not among the ten best, and had few trials to become good in."""
    space = parse({"lr": {"low": 0.1, "high": 1}, "model.init": {"choices": ["bilinear", "xavier", "zeros"]}})
    plan = SimpleNamespace(space=space)
    drawn = [("bilinear", 0.3), ("bilinear", 0.5), ("xavier", 0.2), ("bilinear", None), ("xavier", None)]
    assert tune.by_choice(plan, []) == []
    distributions = {"model.init": optuna.distributions.CategoricalDistribution(space["model.init"].ends())}
    trials = [
        optuna.trial.create_trial(
            state=optuna.trial.TrialState.PRUNED if score is None else optuna.trial.TrialState.COMPLETE,
            value=score,
            params={"model.init": init},
            distributions=distributions,
        )
        for init, score in drawn
    ]
    assert tune.by_choice(plan, trials) == ["model.init: bilinear 0.500 in 3, xavier 0.200 in 2, zeros - in 0 trials"]


def test_a_search_without_a_score_has_failed():
    study = optuna.create_study()
    tune.check_any_good(study)
    study.ask().set_user_attr("reason", "train/loss became nan")
    study.tell(0, state=optuna.trial.TrialState.FAIL)
    with pytest.raises(tune.SearchFailed, match="all 1 trials failed, the first one: train/loss became nan"):
        tune.check_any_good(study)
    study.tell(study.ask(), 0.5)
    tune.check_any_good(study)
    with pytest.raises(tune.SearchFailed, match="no space left on device; the same command goes on, and does failed"):
        tune.check_any_good(study, given_up="no space left on device")


@pytest.mark.exhaustive
def test_a_killed_search_goes_on(fresh_command):
    """SIGKILL while a trial trains; the same command again ends it in its own directory, and no trial twice."""
    options = (*TINY, f"data.root={fresh_command.data}", "trainer=cpu", "name=k", "trials=3", "search=init")
    folder = fresh_command.folder / "outputs" / "k" / "tune-init"
    process = fresh_command.start(*options, script="scripts/tune.py")
    try:
        wait_for(lambda: len(list(folder.glob("0_*/checkpoints/last.ckpt"))), process=process, seconds=250)
    finally:
        process.kill()
        process.communicate()
    before = {path.name for path in folder.glob("[0-9]_*")}
    done = fresh_command(*options, "slots=2", script="scripts/tune.py")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found = sorted(path.name for path in folder.glob("[0-9]_*"))
    assert before < set(found)
    assert [name.partition("_")[0] for name in found] == ["0", "1", "2"]
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{folder / 'study.db'}")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 3
    for trial in study.trials:
        run_dir = folder / trial.user_attrs["run"]
        scores = [float(row["val/mean_iou"]) for row in runs.read_metrics(run_dir)]
        assert trial.intermediate_values == dict(enumerate(scores, start=1))
        assert trial.value == max(scores)
        assert runs.read_summary(run_dir)["status"] == "finished"

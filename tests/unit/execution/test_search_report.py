"""Results of a search, and the plan that they refer to."""

import csv
import shlex

import optuna
import pytest
from optuna.trial import TrialState
from rich.console import Console

import fcn
from fcn import runs
from fcn.execution.search import Search
from fcn.execution.search_plan import TuneConfig, plan_search
from fcn.execution.search_report import SearchFailed, check_search_succeeded, report_search
from fcn.execution.search_space import suggest_values
from fcn.execution.study_storage import parameter_importances
from fcn.runs import Status


def compose(overrides):
    return fcn.compose(*overrides)


def test_printed_command_composes_the_best_run(monkeypatch, capsys, tmp_path):
    """Groups, lists, and text with blanks are quoted for the shell."""
    monkeypatch.chdir(tmp_path)
    fixed = ["trainer=cpu", "data.root=a b$c", "data.crop_size=[64,32]", "optim=sgd", "name=best", "lr=0.5"]
    space = {"model.init": {"choices": ["bilinear", "xavier"]}, "optim.head_lr_multiplier": {"low": 1, "high": 9}}
    space["schedule"] = {"choices": ["poly"]}
    plan, _ = plan_search(TuneConfig(search=space, trials=2), fixed, option="own", compose=compose)
    search = Search.open(plan)
    for number, job in enumerate(search.next_jobs(search.update)):
        best = {"epoch": 0, "val/mean_iou": 0.5 - number / 10}
        runs.write_summary(job.run_dir, {"status": "finished", "metrics": {}, "best": best})
        job.state = Status.finished
        search.update(job)
    report_search(plan, search.study, Console(width=120))
    *_, where, line = capsys.readouterr().out.splitlines()
    assert where.startswith("best     outputs/best/tune-own/0_init-")
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


def test_conditions_refer_to_composed_values():
    """Overrides may have another form: 1e-3 for 0.001, 'xavier' in quotes, a slash for a dot."""
    space = {
        "model/init": {"choices": ["bilinear", "xavier"]},
        "lr": {"choices": [0.001, 0.1]},
        "epochs": {"choices": [3, 4], "when": {"lr": 0.001}},
        "seed": {"choices": [1, 2], "when": {"model.init": "xavier"}},
        "batch_size": {"choices": [4, 8], "when": {"model/init": "bilinear"}},
    }
    fixed = ["trainer=cpu", "lr=1e-3", "model.init='xavier'"]
    plan, _ = plan_search(TuneConfig(search=space, slots=1), fixed, option="own", compose=compose)
    assert list(plan.space) == ["epochs", "seed", "batch_size"]
    values = suggest_values(optuna.create_study().ask(), plan.space, plan.fixed_values())
    assert list(values) == ["epochs", "seed"]


def test_search_without_any_score_has_failed():
    study = optuna.create_study()
    assert parameter_importances(study) == {}
    check_search_succeeded(study)
    study.ask().set_user_attr("reason", "train/loss became nan")
    study.tell(0, state=TrialState.FAIL)
    with pytest.raises(SearchFailed, match="all 1 trials failed, the first one with: train/loss became nan"):
        check_search_succeeded(study)
    study.tell(study.ask(), 0.5)
    check_search_succeeded(study)

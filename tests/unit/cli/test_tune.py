"""scripts/tune.py: errors before the first trial, the planned search, and resuming it after SIGKILL."""

import sys

import optuna
import pytest

from fcn import runs
from fcn.execution import device_slots
from fcn.execution.search_space import Entry
from tests.commands import TINY, load_command, type_in, wait_for

tune = load_command("tune")


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run the command with these arguments; return its exit status, output and errors."""
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: type_in(monkeypatch, capsys, "trainer=cpu", *arguments, script=tune)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["modl=fcn8s"], "unknown key modl; did you mean model?"),
        (["search.lr.low=1"], "search.lr.low (=1) must be below its high (=0.1)"),
        (["+search.foo={choices:[1]}", "search=init"], "search.foo (=1): unknown key foo"),
        (["search.lr={choices: [1], low: 0}"], "search.lr must be either choices or a range"),
        (["resume=x"], "resume (=x) must be omitted; the same command resumes a search"),
        (
            ["storage=mysql://user:s3c,ret@host/db"],
            "storage (=mysql://***@host/db) must be one value; text that contains",
        ),
        (["search=init", "lr=1", "optim.head_lr_multiplier=1", "model/init=xavier"], "search=init must have an entry"),
    ],
)
def test_invalid_input_is_one_line_before_anything_starts(run, tmp_path, arguments, message):
    status, out, err = run(*arguments)
    assert (status, out) == (1, "")
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1
    assert not (tmp_path / "outputs").exists()


def test_missing_optuna_is_an_error_that_names_the_extra(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)  # makes Python report a missing module
    status, _, err = run()
    assert (status, err) == (1, 'error: tune.py needs Optuna; use pip install -e ".[tune]"\n')


@pytest.fixture
def planned(monkeypatch, run):
    """Return the plan and the slots of `tune.py ARGUMENTS`, without executing the search."""

    def plan_only(*arguments):
        calls = []
        monkeypatch.setattr(tune, "_execute", lambda *facts: calls.append(facts))
        assert run(*arguments) == (0, "", "")
        return calls[0]

    return plan_only


def test_overridden_keys_are_fixed(planned):
    plan, slots = planned("search=init", "trials=2", "slots=2", "+search.schedule={choices:[poly]}", "lr=0.5")
    assert len(slots) == 2
    assert plan.trials == 2
    assert plan.fixed == ["trainer=cpu", "lr=0.5"]
    assert list(plan.space) == ["model.init", "optim.head_lr_multiplier", "schedule"]


def test_trials_share_gpus(planned, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(device_slots, "count_gpus", lambda: 2)
    _, slots = planned("trainer.accelerator=gpu", "trainer.devices=1", "slots_per_gpu=2")
    assert [slot["CUDA_VISIBLE_DEVICES"] for slot in slots] == ["0", "1", "0", "1"]


def test_entries_of_any_key_can_be_overridden(planned):
    """Entries are added, partly changed, and replaced by another kind, with and without a plus."""
    plan, _ = planned(
        "search.batch_size={choices: [4,8]}", "+search.optim.decay_all={choices: [false,true]}",
        "search.optim.weight_decay={low: 1e-3}", "search.optim.head_lr_multiplier.high=3",
        "search.lr={choices: [0.1,0.2]}", "search.model.init={choices: [xavier]}", "search.schedule={choices: [poly]}",
    )  # fmt: skip
    assert [*plan.space][:2] == ["lr", "optim.weight_decay"]
    assert [*plan.space][-2:] == ["batch_size", "optim.decay_all"]
    assert len(plan.space) == 7
    decay, head = plan.space["optim.weight_decay"], plan.space["optim.head_lr_multiplier"]
    assert (decay.low, decay.high, decay.log) == (1e-3, 1e-1, True)
    assert (head.low, head.high, head.log) == (0.3, 3, True)
    assert plan.space["lr"] == Entry(choices=[0.1, 0.2])
    assert plan.space["model.init"].choices == ["xavier"]


@pytest.mark.exhaustive
def test_killed_search_is_resumed_by_the_same_command(fresh_command):
    """After SIGKILL during a trial, the trial is finished in the same directory, and no trial is executed twice."""
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
    names = sorted(path.name for path in folder.glob("[0-9]_*"))
    assert before < set(names)
    assert [name.partition("_")[0] for name in names] == ["0", "1", "2"]
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{folder / 'study.db'}")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 3
    for trial in study.trials:
        run_dir = folder / trial.user_attrs["run"]
        scores = [float(row["val/mean_iou"]) for row in runs.read_metrics(run_dir)]
        assert trial.intermediate_values == dict(enumerate(scores, start=1))
        assert trial.value == max(scores)
        assert runs.read_summary(run_dir)["status"] == "finished"

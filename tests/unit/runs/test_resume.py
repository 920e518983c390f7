"""Changes of the configuration by `resume=<run> KEY=VALUE`; tests/integration/test_exactness.py resumes runs."""

import json
import os
import re
import time
from pathlib import Path

import pytest

from fcn import runs
from fcn.config import ConfigError, option
from fcn.config.composition import compose
from fcn.runs.resume import BACKUP, LOCK, confirm_start, merge_overrides, unchanged_unless_started
from tests.commands import type_in


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run that was not executed, with a batch size that 3 processes can share, unlike the default."""
    monkeypatch.chdir(tmp_path)
    overrides = ["batch_size=6", "trainer.val_every=2"]
    runs.create(tmp_path / "run", compose(*overrides), overrides=overrides)
    monkeypatch.setattr("fcn.execution.processes.execute", confirm_start)
    return tmp_path / "run"


def test_allowed_changes_are_applied(run, monkeypatch, capsys):
    overrides = ["data.num_workers=3", "trainer=cpu", "trainer.devices=3", "lr=0.5"]
    status, _, err = type_in(
        monkeypatch, capsys, "resume=run", *overrides, "allow=[lr,trainer.accelerator,trainer.devices]"
    )
    assert (status, err) == (0, "")
    config = runs.load_config(run)
    assert (config.data.num_workers, config.trainer.devices, config.lr) == (3, 3, 0.5)
    assert (config.batch_size, config.trainer.val_every) == (6, 2)
    assert runs.load_overrides(run) == ["batch_size=6", "trainer.val_every=2", *overrides]
    assert type_in(monkeypatch, capsys, "resume=run")[0] == 0
    # The next execution may start from a checkpoint written before the change.
    assert runs.load_config(run).allow == ["lr", "trainer.accelerator", "trainer.devices"]
    status, _, err = type_in(monkeypatch, capsys, "resume=run", "lr=0.6")
    assert (status, "add 'allow=[lr]'" in err) == (1, True)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("batch_size=12", "batch_size (=12) must stay 6 in run"),
        ("trainer.devices=4", "batch_size (=6) must be divisible by"),
        ("lr=-1", "lr (=-1.0) must be at least 0"),
        ("lrr=1", "unknown key lrr"),
    ],
)
def test_other_changes_are_errors_and_change_nothing(run, monkeypatch, capsys, overrides, message):
    before = files(run)
    status, _, err = type_in(monkeypatch, capsys, "resume=run", overrides)
    assert (status, err.count("\n")) == (1, 1)
    assert err.startswith(f"error: {message}"), err
    assert files(run) == before


def test_finished_run_is_only_resumed_with_more_epochs(run, monkeypatch, capsys):
    runs.write_summary(run, {"status": "finished", "metrics": {}})
    status, _, err = type_in(monkeypatch, capsys, "resume=run", "lr=0.5", "allow=[lr]")
    assert (status, err) == (1, "error: resume (=run) is finished; use more epochs than 7 to continue it\n")
    assert runs.load_config(run).lr == 1e-3
    assert type_in(monkeypatch, capsys, "resume=run", "epochs=9", "allow=[epochs]")[0] == 0
    assert runs.load_config(run).epochs == 9
    assert runs.read_summary(run)["status"] == "interrupted"


def test_finished_run_is_resumed_with_more_steps(run, monkeypatch, capsys):
    runs.change(run, compose("steps=20", "batch_size=6"), overrides=["steps=20"])
    runs.write_summary(run, {"status": "finished", "metrics": {}})
    status, _, err = type_in(monkeypatch, capsys, "resume=run", "steps=10", "allow=[steps]")
    assert (status, err) == (1, "error: resume (=run) is finished; use more steps than 20 to continue it\n")
    assert type_in(monkeypatch, capsys, "resume=run", "steps=40", "allow=[steps]")[0] == 0
    assert (runs.load_config(run).epochs, runs.load_config(run).steps) == (None, 40)
    runs.write_summary(run, {"status": "finished", "metrics": {}})
    assert type_in(monkeypatch, capsys, "resume=run", "epochs=9", "allow=[epochs,steps]")[0] == 0
    assert (runs.load_config(run).epochs, runs.load_config(run).steps) == (9, None)


@pytest.mark.parametrize("error", [ConfigError("refused"), KeyboardInterrupt()], ids=["refused", "stopped"])
def test_execution_that_does_not_start_changes_nothing(run, monkeypatch, capsys, error):
    def execute(run_dir):
        assert runs.load_config(run_dir).epochs == 9
        runs.set_status(run_dir, "failed")
        raise error

    monkeypatch.setattr("fcn.execution.processes.execute", execute)
    runs.write_summary(run, {"status": "finished", "metrics": {}})
    before = files(run)
    assert type_in(monkeypatch, capsys, "resume=run", "epochs=9", "allow=[epochs]", "data.root=typo")[0] != 0
    assert files(run) == before


def test_changes_of_a_command_that_was_killed_before_the_start_are_undone_by_the_next(run, monkeypatch, capsys):
    before = files(run)
    texts = {name: (run / name).read_text() for name in (runs.CONFIG, runs.OVERRIDES)}
    (run / BACKUP).write_text(json.dumps({**texts, runs.SUMMARY: None}))
    runs.change(run, compose("batch_size=6", "data.root=typo"), overrides=["data.root=typo"])
    runs.set_status(run, "failed")
    assert type_in(monkeypatch, capsys, "resume=run")[0] == 0
    assert files(run) == before


def test_run_is_resumed_by_one_command_at_a_time(run, monkeypatch, capsys):
    monkeypatch.setattr("fcn.runs.locks.PATIENCE", 0)
    with unchanged_unless_started(run):  # as in a command whose training has not started
        runs.change(run, compose("batch_size=6", "lr=0.5"), overrides=["lr=0.5"])
        before = files(run)
        status, _, err = type_in(monkeypatch, capsys, "resume=run", "data.root=other")
        assert (status, "run is being executed by process" in err) == (1, True)
        assert files(run) == before


@pytest.mark.parametrize(
    ("given", "decay"),
    [
        (["callbacks=[ema,overfit]"], 0.9),
        (["callbacks=[ema,overfit]", "callbacks.ema.decay=0.8"], 0.8),
        (["callbacks.ema.decay=0.8", "callbacks=[ema,overfit]"], 0.8),
    ],
)
def test_list_of_options_keeps_the_keys_of_those_that_the_run_has(given, decay):
    run = ["callbacks=[early_stopping,ema]", "callbacks.ema.decay=0.9", "logger=[csv]"]
    merged = merge_overrides(compose(*run), compose(*run[::2], *given, "callbacks.overfit.mean_iou=0.5"), given)
    assert list(merged.callbacks) == ["ema", "overfit"]
    assert merged.callbacks["ema"] == option("callbacks", "ema", decay=decay)
    assert merged.callbacks["overfit"] == option("callbacks", "overfit", mean_iou=0.5)
    assert list(merged.logger) == ["csv"]


def files(run):
    return {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name not in (runs.LOCK, LOCK)}


@pytest.fixture
def executed(tmp_path, monkeypatch):
    """Paths of the runs that commands execute, in order."""
    monkeypatch.chdir(tmp_path)
    executed = []

    def execute(run_dir):
        executed.append(run_dir)
        confirm_start(run_dir)

    monkeypatch.setattr("fcn.execution.processes.execute", execute)
    return executed


def create_run(name, *overrides, status="interrupted"):
    path = Path("outputs/shapes", name)
    runs.create(path, compose(*overrides))
    runs.write_summary(path, {"status": status, "metrics": {}})
    order = time.time_ns() - 10**12 + int(name) * 10**9  # newer than runs with lower numbers
    os.utime(path / "config.yaml", ns=(order, order))
    return path


def test_autoresume_continues_the_newest_unfinished_run_of_the_configuration(executed, monkeypatch, capsys):
    create_run("1", "lr=0.01")
    expected = create_run("2", "lr=0.01", "data.num_workers=2", "allow=[epochs]", status="failed")
    create_run("3", "lr=0.01", status="finished")
    create_run("4", "lr=0.01", "seed=1")
    create_run("5", "lr=0.01", "model=fcn8s")
    create_run("6", "lr=0.01", "rerun=outputs/shapes/3")
    broken = create_run("7", "lr=0.01")
    (broken / "config.yaml").write_text("no configuration")
    before = sorted(Path("outputs/shapes").iterdir())
    status, _, err = type_in(monkeypatch, capsys, "lr=0.01", "autoresume=true", "data.num_workers=3")
    assert status == 0
    assert executed == [expected]
    assert err == f"autoresume {expected}, the newest unfinished run with this configuration\n"
    assert sorted(Path("outputs/shapes").iterdir()) == before
    config = runs.load_config(expected)
    assert (config.data.num_workers, config.allow, config.autoresume) == (3, ["epochs"], True)


def test_autoresume_starts_a_run_if_there_is_none_to_continue(executed, monkeypatch, capsys):
    finished = create_run("1", status="finished")
    assert type_in(monkeypatch, capsys, "autoresume=true")[::2] == (0, "")
    (run,) = executed
    assert run.parent == finished.parent
    assert run != finished
    assert runs.load_config(run).autoresume


@pytest.mark.parametrize("other", ["rerun=outputs/shapes/1", "execute=false", "-m"])
def test_autoresume_is_only_for_a_single_new_run(executed, monkeypatch, capsys, other):
    create_run("1")
    status, _, err = type_in(monkeypatch, capsys, "autoresume=true", other)
    assert status == 1
    assert re.search(r"autoresume \(=true\) cannot be combined with|execute=false .* or autoresume;", err)
    assert not executed

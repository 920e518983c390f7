"""`resume=<run> KEY=VALUE`, as far as the run's configuration; tests/integration/test_exactness.py goes on with one."""

import pytest

from fcn import runs
from fcn.config.composition import compose
from tests.commands import type_in


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run that has not begun, with 6 images a step, which 3 processes share and the defaults' 16 could not."""
    monkeypatch.chdir(tmp_path)
    overrides = ["batch_size=6", "trainer.val_every=2"]
    runs.create(tmp_path / "run", compose(*overrides), overrides=overrides)
    monkeypatch.setattr("fcn.execution.processes.execute", lambda run_dir: {})
    return tmp_path / "run"


def test_what_may_change_is_changed(run, monkeypatch, capsys):
    typed = ["data.num_workers=3", "trainer=cpu", "trainer.devices=3", "lr=0.5"]
    status, _, err = type_in(
        monkeypatch, capsys, "resume=run", *typed, "allow=[lr,trainer.accelerator,trainer.devices]"
    )
    assert (status, err) == (0, "")
    config = runs.load_config(run)
    assert (config.data.num_workers, config.trainer.devices, config.lr) == (3, 3, 0.5)
    assert (config.batch_size, config.trainer.val_every) == (6, 2)
    assert runs.load_overrides(run) == ["batch_size=6", "trainer.val_every=2", *typed]
    assert type_in(monkeypatch, capsys, "resume=run")[0] == 0
    # The next execution may go on from a checkpoint of before the change.
    assert runs.load_config(run).allow == ["lr", "trainer.accelerator", "trainer.devices"]
    status, _, err = type_in(monkeypatch, capsys, "resume=run", "lr=0.6")
    assert (status, "add allow=[lr]" in err) == (1, True)


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (
            "batch_size=12",
            "batch_size (=12) was 6 in run so far, and must stay; begin a new run, with model.init_from=...",
        ),
        ("model.init=xavier", "model.init (=xavier) was bilinear in run so far, and must stay"),
        (
            "seed=1",
            "seed (=1) was 0 in run so far; to go on with other bits than the run left alone, add allow=[seed]",
        ),
        ("experiment=d2l", "resume (=run) brings its own configuration; leave out experiment=d2l"),
        ("trainer.devices=4", "batch_size (=6) must be divisible by"),
        ("lr=-1", "lr (=-1.0) must be at least 0"),
        ("lrr=1", "unknown key lrr"),
    ],
)
def test_what_may_not_change_is_one_line_and_nothing_is_changed(run, monkeypatch, capsys, typed, message):
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    status, _, err = type_in(monkeypatch, capsys, "resume=run", typed)
    assert (status, err.count("\n")) == (1, 1)
    assert err.startswith(f"error: {message}"), err
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == before


def test_a_finished_run_goes_on_with_more_epochs_alone(run, monkeypatch, capsys):
    runs.write_summary(run, {"status": "finished", "metrics": {}})
    status, _, err = type_in(monkeypatch, capsys, "resume=run", "lr=0.5", "allow=[lr]")
    assert (status, err) == (1, "error: resume (=run) is finished; it goes on only with more epochs than 7\n")
    assert runs.load_config(run).lr == 1e-3
    assert type_in(monkeypatch, capsys, "resume=run", "epochs=9", "allow=[epochs]")[0] == 0
    assert runs.load_config(run).epochs == 9
    assert runs.read_summary(run)["status"] == "interrupted"

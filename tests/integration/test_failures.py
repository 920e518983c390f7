"""A run that fails says why in one line and leaves what it had."""

import json

import pytest

from tests.commands import TINY, type_in


def test_a_loss_that_is_no_number_stops_the_run_at_once(monkeypatch, capsys, tmp_path, shapes_root):
    monkeypatch.chdir(tmp_path)
    diverging = (f"data.root={shapes_root}", "name=diverged", "lr=1e30", "schedule=constant", "trainer=cpu")
    status, _, err = type_in(monkeypatch, capsys, *TINY, *diverging)
    assert status == 1
    (line,) = err.splitlines()
    assert line.startswith("error: train/loss became ")
    for expected in ("at step ", "lr 1e+30", "try lr=1e+29", "schedule.warmup_steps"):
        assert expected in line, line
    (run,) = (tmp_path / "outputs" / "diverged").iterdir()
    assert json.loads((run / "summary.json").read_text())["status"] == "failed"
    assert not list(run.rglob("*.tmp"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["backbone.weights=absent.pth"], "backbone.weights (=absent.pth)"),
        (["data.shapes.num_train=4"], "batch_size (=8) must not exceed the 4 images"),
        (
            ["schedule.warmup_steps=100"],
            "schedule.warmup_steps (=100) must be below the number of steps of the run (=4)",
        ),
        (["data.train_split=trian"], "did you mean train"),
    ],
)
def test_what_cannot_be_run_is_one_line(monkeypatch, capsys, tmp_path, shapes_root, overrides, message):
    monkeypatch.chdir(tmp_path)
    status, _, err = type_in(monkeypatch, capsys, *TINY, f"data.root={shapes_root}", "trainer=cpu", *overrides)
    assert status == 1
    (line,) = err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    (run,) = (tmp_path / "outputs" / "shapes").iterdir()
    assert json.loads((run / "summary.json").read_text())["status"] == "failed"

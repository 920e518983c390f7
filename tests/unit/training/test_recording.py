"""Files at the end of a run, written without training."""

import json
import logging
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from fcn import runs
from fcn.config import Config
from fcn.training.recording import Recording
from fcn.visualization.learning_curves import draw_learning_curves

ROWS = [{"epoch": 0, "step": 2, "train/loss": 1.5, "lr": 0.1}, {"epoch": 1, "step": 4, "train/loss": 1.2, "lr": 0.0}]
TRAINER = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cpu")), world_size=1)


@pytest.fixture
def recording(tmp_path):
    """Recording of a run that ends before training starts and therefore writes no TensorBoard file."""
    return Recording(tmp_path, Config())


def test_interrupted_run_has_curves(recording, tmp_path):
    runs.write_metrics(tmp_path, ROWS)
    recording.finish(TRAINER, runs.Status.interrupted)
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size == (1000, 700)
    assert {path.name for path in tmp_path.iterdir()} == {"summary.json", "metrics.csv", "curves.png"}


def test_run_without_an_epoch_has_no_curves(recording, tmp_path):
    recording.finish(TRAINER, runs.Status.failed)
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]


def fail(rows):
    raise ZeroDivisionError("in the picture")


@pytest.mark.parametrize(("draw", "table"), [(fail, "epoch,step,lr\n0,2,1e-3\n"), (None, "epoch,step,lr\n1,4,half a")])
def test_curves_that_cannot_be_drawn_do_not_hide_the_failure(recording, tmp_path, monkeypatch, caplog, draw, table):
    (tmp_path / "metrics.csv").write_text(table)
    monkeypatch.setattr("fcn.training.recording.draw_learning_curves", draw or draw_learning_curves)
    monkeypatch.setattr(logging.getLogger("fcn"), "propagate", True)
    recording.finish(TRAINER, runs.Status.failed)
    assert "curves.png could not be drawn" in caplog.text
    assert runs.read_summary(tmp_path)["status"] == "failed"


def test_failed_resume_changes_the_status_only(recording, tmp_path):
    """The run fails before its checkpoint is read, for example because the data have been moved."""
    had = {"status": "interrupted", "metrics": {"val/mean_iou": 0.5, "val/iou/cat": None}, "best": {"epoch": 1}}
    runs.write_text(tmp_path / runs.SUMMARY, json.dumps(had))
    recording.finish(TRAINER, runs.Status.failed)
    assert runs.read_summary(tmp_path) == {**had, "status": "failed"}


def test_resumed_run_records_earlier_executions(recording, tmp_path):
    state = recording.state_dict()
    assert state["history"][-1]["versions"]["torch"]
    resumed = Recording(tmp_path, Config())
    resumed.load_state_dict(state)
    resumed.write_summary(TRAINER, runs.Status.interrupted)
    assert runs.read_summary(tmp_path)["history"] == state["history"]
    assert len(resumed.state_dict()["history"]) == 2

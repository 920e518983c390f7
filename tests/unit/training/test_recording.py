"""What the end of a run leaves behind, without a run."""

import json
import logging
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from fcn import runs
from fcn.training import recording
from fcn.training.recording import RunRecorder

ROWS = [{"epoch": 0, "step": 2, "train/loss": 1.5, "lr": 0.1}, {"epoch": 1, "step": 4, "train/loss": 1.2, "lr": 0.0}]
TRAINER = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device("cpu")), world_size=1)


@pytest.fixture
def recorder(tmp_path):
    """The recorder of a run that ends before it begins to train: it writes no TensorBoard file."""
    return RunRecorder(tmp_path, savepoints=SimpleNamespace(), hyperparameters={})


def test_a_run_that_stops_after_an_epoch_ends_with_its_curves(recorder, tmp_path):
    runs.write_metrics(tmp_path, ROWS)
    recorder.finish(TRAINER, "interrupted")
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.size == (1000, 700)
    assert {path.name for path in tmp_path.iterdir()} == {"summary.json", "metrics.csv", "curves.png"}


def test_a_run_without_an_epoch_has_no_curves(recorder, tmp_path):
    recorder.finish(TRAINER, "failed")
    assert [path.name for path in tmp_path.iterdir()] == ["summary.json"]


def test_an_error_in_drawing_does_not_hide_what_ended_the_run(recorder, tmp_path, monkeypatch, caplog):
    def fail(rows):
        raise ZeroDivisionError("in the picture")

    runs.write_metrics(tmp_path, ROWS)
    monkeypatch.setattr(recording, "draw_learning_curves", fail)
    monkeypatch.setattr(logging.getLogger("fcn"), "propagate", True)

    def train():
        try:
            raise RuntimeError("of the run")
        finally:
            recorder.finish(TRAINER, "failed")

    with pytest.raises(RuntimeError, match="of the run"):
        train()
    assert set(caplog.messages) == {"curves.png could not be drawn: in the picture"}
    assert runs.read_summary(tmp_path)["status"] == "failed"


def test_metrics_that_cannot_be_read_do_not_hide_it_either(recorder, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("fcn"), "propagate", True)
    (tmp_path / "metrics.csv").write_text("epoch,step,lr\n0,2,1e-3\n1,4,half a")
    recorder.finish(TRAINER, "interrupted")
    assert "curves.png could not be drawn" in caplog.text
    assert runs.read_summary(tmp_path)["status"] == "interrupted"


def test_a_run_that_could_not_go_on_keeps_what_it_had(recorder, tmp_path):
    """As when the data are not where they were: it fails before its checkpoint is read."""
    had = {"status": "interrupted", "metrics": {"val/mean_iou": 0.5, "val/iou/cat": None}, "best": {"epoch": 1}}
    runs.write_text(tmp_path / runs.SUMMARY, json.dumps(had))
    recorder.finish(TRAINER, "failed")
    assert runs.read_summary(tmp_path) == {**had, "status": "failed"}


def test_a_resumed_run_tells_what_was_different_before(recorder, tmp_path):
    state = recorder.state_dict()
    assert state["history"][-1]["versions"]["torch"]
    before = {**state["history"][-1], "started": "2026-01-02T03:04:05+00:00"}
    older = {**before, "git_commit": "0" * 40, "world_size": 2}
    resumed = RunRecorder(tmp_path, savepoints=SimpleNamespace(), hyperparameters={})
    resumed.load_state_dict({**state, "history": [older, before]})
    resumed.write_summary(TRAINER, "interrupted")
    summary = runs.read_summary(tmp_path)
    started = {"started": "2026-01-02T03:04:05+00:00"}
    assert summary["history"] == [{**started, "git_commit": "0" * 40, "world_size": 2}, started]
    assert summary["git_commit"] != "0" * 40
    assert [entry["started"] for entry in resumed.state_dict()["history"]][:2] == [started["started"]] * 2
    assert len(resumed.state_dict()["history"]) == 3

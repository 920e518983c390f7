"""Runs of W&B, offline: the files are read back."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest
import wandb
from PIL import Image

from fcn.config import Config, option
from fcn.config.choices import WandbMode
from fcn.runs import Status
from fcn.runs.logger_ids import read_logger_id
from fcn.training.loggers.guarded import GuardedLogger
from tests.wandb_files import history, offline_runs, records_of, values_of

pytestmark = pytest.mark.slow  # every run of W&B starts a process

PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


@pytest.fixture(autouse=True)
def no_login(monkeypatch, tmp_path):
    """No login, no files outside the test's folder."""
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    for name in ("HOME", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setattr(logging.getLogger("fcn"), "propagate", True)


def execute(run_dir, *, step, points, status, config=None, mode="offline"):
    """Log points (step, values) as a run does that starts after `step`, and a picture after the last."""
    config = config or Config(name="voc", lr=0.25)
    guarded = GuardedLogger("wandb", option("logger", "wandb", mode=mode and WandbMode(mode)), config, run_dir)
    guarded.start(SimpleNamespace(global_step=step))
    for number, values in points:
        guarded.record(values, number)
    guarded.record_pictures({"val/samples": Image.fromarray(PIXELS)}, points[-1][0])
    guarded.close(Status(status))
    wandb.teardown()  # completes the files; the next run reads the environment again
    return guarded


def test_run_has_scalars_pictures_and_configuration(tmp_path):
    run_dir = tmp_path / "voc" / "tune-lr" / "0_lr-1"
    run_dir.mkdir(parents=True)
    points = [(1, {"lr": 0.5}), (2, {"lr": 0.1 + 0.2}), (2, {"val/mean_iou": float("nan"), "val/iou/猫": 0.75})]
    execute(run_dir, step=0, points=points, status="finished")
    (path,) = offline_runs(run_dir)
    (run,) = records_of(path, "run")
    assert (run.run_id, run.project) == (read_logger_id(run_dir, "wandb"), "fcn")
    assert (run.display_name, run.run_group) == ("voc/tune-lr/0_lr-1", "voc/tune-lr")
    configured = values_of([item for record in records_of(path, "config") for item in record.update])
    assert (configured["lr"], configured["model.init"], configured["logger"]) == (0.25, "bilinear", ["tensorboard"])
    rows = history(path)
    assert (list(rows), rows[1]["lr"], rows[2]["lr"]) == ([1, 2], 0.5, 0.1 + 0.2)
    assert (rows[2]["val/iou/猫"], np.isnan(rows[2]["val/mean_iou"])) == (0.75, True)
    with Image.open(path.parent / "files" / rows[2]["val/samples/filenames"][0]) as picture:
        np.testing.assert_array_equal(picture, PIXELS)


@pytest.mark.parametrize(("status", "code", "word"), [("finished", 0, "success"), ("interrupted", 1, "aborted")])
def test_status_is_passed_on(tmp_path, status, code, word):
    execute(tmp_path, step=0, points=[(1, {"lr": 0.5})], status=status)
    (path,) = offline_runs(tmp_path)
    assert [record.exit_code for record in records_of(path, "exit")] == [code]
    summary = values_of([item for record in records_of(path, "summary") for item in record.update])
    assert summary["status"] == word


def test_resumed_run_keeps_its_id(tmp_path):
    execute(tmp_path, step=0, points=[(1, {"lr": 0.5})], status="interrupted")
    execute(tmp_path, step=1, points=[(2, {"lr": 0.25})], status="finished")
    first, second = offline_runs(tmp_path)
    ids = {records_of(path, "run")[0].run_id for path in (first, second)}
    assert ids == {read_logger_id(tmp_path, "wandb")}
    assert [list(history(path)) for path in (first, second)] == [[1], [2]]


def test_without_a_login_the_logger_is_off(tmp_path, caplog):
    guarded = execute(tmp_path, step=0, points=[(1, {"lr": 0.5})], status="finished", mode="online")
    assert guarded.failure == "RuntimeError: no login; run wandb login, or use logger.wandb.mode=offline"
    assert "logger wandb failed and is off for the rest of the run" in caplog.text
    assert {path.name for path in tmp_path.iterdir()} <= {"home", "train.log"}


def test_mode_is_read_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    guarded = execute(tmp_path, step=0, points=[(1, {"lr": 0.5})], status="finished", mode=None)
    assert guarded.failure is None
    assert [list(history(path)) for path in offline_runs(tmp_path)] == [[1]]


def test_server_that_does_not_answer_does_not_end_training(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # discard
    monkeypatch.setenv("WANDB_INIT_TIMEOUT", "3")
    guarded = execute(tmp_path, step=0, points=[(1, {"lr": 0.5})], status="finished", mode="online")
    assert guarded.failure

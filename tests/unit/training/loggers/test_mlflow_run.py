"""Runs of MLflow in a SQLite file, read back by MLflow's client."""

import logging
import math
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

from fcn.config import Config, option
from fcn.runs import Status
from fcn.runs.logger_ids import read_logger_id
from fcn.training.loggers.guarded import GuardedLogger

pytestmark = pytest.mark.slow  # MLflow takes seconds to import and to create its database

CONFIG = Config(name="voc", lr=0.25)
PIXELS = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Current folder of all tests, in which MLflow creates its database and mlruns/."""
    before, folder = os.getcwd(), tmp_path_factory.mktemp("mlflow")
    os.chdir(folder)
    yield folder
    os.chdir(before)


@pytest.fixture
def client(folder, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(logging.getLogger("fcn"), "propagate", True)
    return MlflowClient("sqlite:///mlflow.db")


def execute(run_dir, *, step, points, status, config=CONFIG, **keys):
    """Log points (step, values) as a run does that starts after `step`, with a picture after the last."""
    run_dir.mkdir(parents=True, exist_ok=True)
    guarded = GuardedLogger("mlflow", option("logger", "mlflow", **keys), config, run_dir)
    guarded.start(SimpleNamespace(global_step=step))
    for number, values in points:
        guarded.record(values, number)
    guarded.flush()
    if points:
        guarded.record_pictures({"val/samples": Image.fromarray(PIXELS)}, points[-1][0])
    if status:
        guarded.close(Status(status))
    return guarded


def run_of(client, run_dir):
    return client.get_run(read_logger_id(run_dir, "mlflow"))


def points_of(client, run, name):
    return [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, name)]


def test_run_has_scalars_pictures_and_configuration(client, tmp_path):
    run_dir = tmp_path / "voc" / "2026-01-31" / "0_lr-1"
    values = {"val/mean_iou": float("nan"), "val/iou/猫 (a)": 0.75}
    points = [(1, {"lr": 0.5}), (2, {"lr": 0.1 + 0.2}), (2, values)]
    guarded = execute(run_dir, step=0, points=points, status="finished")
    assert guarded.failure is None
    run = run_of(client, run_dir)
    assert client.get_experiment(run.info.experiment_id).name == "fcn"
    assert (run.info.status, run.info.run_name) == ("FINISHED", "voc/2026-01-31/0_lr-1")
    assert (run.data.tags["sweep"], run.data.tags["run_directory"]) == ("voc/2026-01-31", str(run_dir))
    params = run.data.params
    assert (params["lr"], params["model.init"], params["steps"]) == ("0.25", "bilinear", "None")
    assert points_of(client, run, "lr") == [(1, 0.5), (2, 0.1 + 0.2)]
    assert points_of(client, run, "val/iou/猫 _a_") == [(2, 0.75)]
    assert math.isnan(points_of(client, run, "val/mean_iou")[0][1])
    (path,) = [each.path for each in client.list_artifacts(run.info.run_id, "images") if each.path.endswith(".png")]
    assert "val~samples+step+2+" in path
    with Image.open(client.download_artifacts(run.info.run_id, path)) as picture:
        np.testing.assert_array_equal(picture, PIXELS)


@pytest.mark.parametrize(
    ("status", "word"), [("finished", "FINISHED"), ("failed", "FAILED"), ("interrupted", "KILLED"), (None, "RUNNING")]
)
def test_status_is_passed_on(client, tmp_path, status, word):
    execute(tmp_path, step=0, points=[], status=status)
    assert run_of(client, tmp_path).info.status == word


def test_resumed_run_continues_without_repeated_points(client, tmp_path):
    """Killed at step 3, after the checkpoint of step 1."""
    execute(tmp_path, step=0, points=[(step, {"lr": 0.5 / step}) for step in (1, 2, 3)], status=None)
    before = run_of(client, tmp_path)
    again = [(step, {"lr": 0.5 / step}) for step in (2, 3, 4)]
    execute(tmp_path, step=1, points=[*again, (4, {"new": 1.0})], status="finished", config=replace(CONFIG, epochs=9))
    run = run_of(client, tmp_path)
    assert (run.info.run_id, run.info.status) == (before.info.run_id, "FINISHED")
    assert points_of(client, run, "lr") == [(step, 0.5 / step) for step in (1, 2, 3, 4)]
    assert points_of(client, run, "new") == [(4, 1.0)]
    # A parameter of MLflow cannot change.
    assert (run.data.params["epochs"], run.data.tags["epochs"]) == (before.data.params["epochs"], "9")
    assert "lr" not in run.data.tags


def test_run_that_the_server_does_not_know_is_a_new_one(client, tmp_path):
    execute(tmp_path / "run", step=0, points=[(1, {"lr": 0.5})], status="interrupted")
    other = f"sqlite:///{tmp_path}/other.db"
    guarded = execute(tmp_path / "run", step=1, points=[(2, {"lr": 0.25})], status="finished", tracking_uri=other)
    assert guarded.failure is None
    client = MlflowClient(other)
    assert points_of(client, run_of(client, tmp_path / "run"), "lr") == [(2, 0.25)]


def test_jobs_of_a_sweep_may_start_at_once(client, tmp_path):
    def job(number):
        points = [(1, {"lr": float(number)})]
        return execute(tmp_path / str(number), step=0, points=points, status="finished", experiment=tmp_path.name)

    with ThreadPoolExecutor(4) as pool:
        assert [guarded.failure for guarded in pool.map(job, range(4))] == [None] * 4
    (experiment,) = {run_of(client, tmp_path / str(number)).info.experiment_id for number in range(4)}
    assert client.get_experiment(experiment).name == tmp_path.name


def test_server_that_does_not_answer_does_not_end_training(client, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    execute(tmp_path, step=0, points=[(1, {"lr": 0.5})], status="finished", tracking_uri="http://127.0.0.1:9")
    (first, last) = [record.getMessage() for record in caplog.records if record.name.startswith("fcn")]
    assert first.startswith("logger mlflow failed and is off for the rest of the run: MlflowException: ")
    assert last.startswith("logger mlflow has not received the whole run: MlflowException: ")


def test_database_that_disappears_does_not_end_training(client, tmp_path, caplog):
    guarded = execute(tmp_path, step=0, points=[(1, {"lr": 0.5})], status=None)
    client.delete_run(read_logger_id(tmp_path, "mlflow"))
    guarded.record({"lr": 0.25}, 2)
    guarded.flush()
    guarded.close(Status.finished)
    assert "logger mlflow failed and is off for the rest of the run: MlflowException: The run" in caplog.text

"""Commands with logger=[...]: every logger has every scalar once, also after a kill; loggers from outside."""

import csv
import json
import signal
from collections import Counter

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.commands import TINY, interrupt, wait_for
from tests.identical_runs import assert_identical

# Four steps per epoch, so that a run can be killed within an epoch.
LONGER = ("batch_size=4", "epochs=3", "trainer.checkpoint_steps=1")


@pytest.fixture
def home(tmp_path, monkeypatch):
    """No login of W&B, no settings of MLflow, no files outside the test's folder."""
    for name in ("WANDB_API_KEY", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "WANDB_CONFIG_DIR", "WANDB_CACHE_DIR", "WANDB_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    return tmp_path / "home"


def table_points(run) -> Counter:
    """Return how often scalars.csv has each point (name, step)."""
    with open(run / "scalars.csv", newline="", encoding="utf-8") as file:
        return Counter((row["name"], int(row["step"])) for row in csv.DictReader(file))


def event_points(run) -> Counter:
    """Return how often TensorBoard shows each point (name, step)."""
    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    return Counter((name, point.step) for name in events.Tags()["scalars"] for point in events.Scalars(name))


@pytest.mark.slow
def test_without_loggers_the_run_is_the_same(module_command):
    default = module_command.train(name="default")
    without = module_command.train("logger=[]", name="without")
    assert len(list(default.glob("events.*"))) == 1
    assert not list(without.glob("events.*"))
    assert (without / "metrics.csv").is_file()
    ours, theirs = (json.loads((run / "summary.json").read_text())["metrics"] for run in (without, default))
    assert ours == theirs


@pytest.mark.slow
def test_table_has_the_points_of_tensorboard(module_command):
    run = module_command.train("logger=[csv,tensorboard]", name="table")
    assert table_points(run) == event_points(run)
    assert set(table_points(run).values()) == {1}


@pytest.mark.exhaustive
def test_killed_run_continues_in_all_loggers(command, home):
    from mlflow import MlflowClient  # takes seconds to import

    from tests.wandb_files import history, offline_runs, records_of

    keys = (*TINY, *LONGER, f"data.root={command.data}", "callbacks=[lr_monitor]")
    loggers = ("logger=[tensorboard,csv,wandb,mlflow]", "logger.wandb.mode=offline")
    process = command.start(*keys, *loggers, "name=killed")
    folder = command.folder / "outputs" / "killed"
    wait_for(
        lambda: any(table_points(path.parent)[("lr", 6)] for path in folder.glob("*/scalars.csv")), process=process
    )
    assert interrupt(process, signal.SIGKILL).returncode == -signal.SIGKILL
    run = command.run_of("killed")
    resumed = command(f"resume={run.relative_to(command.folder)}")
    assert resumed.returncode == 0, resumed.stderr
    assert "failed and is off" not in resumed.stdout
    alone = command(*keys, "name=alone")
    assert alone.returncode == 0, alone.stderr
    assert_identical(run, command.run_of("alone"))
    points = table_points(run)
    assert set(points.values()) == {1}
    assert event_points(run) == points
    names = {name for name, _ in points}
    assert names > {"train/loss_step", "train/loss", "val/mean_iou"}
    assert any(name.startswith("lr-AdamW") for name in names)  # logged by the callback of Lightning
    client = MlflowClient(f"sqlite:///{command.folder}/mlflow.db")
    ids = json.loads((run / "loggers.json").read_text())
    tracked = client.get_run(ids["mlflow"])
    assert tracked.info.status == "FINISHED"
    by_mlflow = {name: client.get_metric_history(ids["mlflow"], name) for name in tracked.data.metrics}
    assert Counter((name, point.step) for name, history in by_mlflow.items() for point in history) == points
    executions = offline_runs(run)
    assert {record.run_id for path in executions for record in records_of(path, "run")} == {ids["wandb"]}
    logged = [{(name, step) for step, row in history(path).items() for name in row} for path in executions]
    # W&B buffers its offline files: those of the killed execution lack the last points.
    resumed_at = min(step for _, step in logged[-1])
    assert {point for point in points if point[1] >= resumed_at} <= logged[-1]


@pytest.mark.exhaustive
def test_jobs_of_a_sweep_are_runs_of_a_group(command, home):
    from mlflow import MlflowClient

    keys = (*TINY, f"data.root={command.data}", "name=sweep", "epochs=1", "logger=[mlflow]")
    done = command("-m", *keys, "lr=0.1,0.01", "hydra.launcher.slots=2")
    assert done.returncode == 0, done.stderr
    sweep = command.run_of("sweep")
    client = MlflowClient(f"sqlite:///{command.folder}/mlflow.db")
    tracked = client.search_runs([client.get_experiment_by_name("fcn").experiment_id])
    assert {run.info.run_name for run in tracked} == {f"sweep/{sweep.name}/{job}" for job in ("0_lr-0.1", "1_lr-0.01")}
    assert {run.data.tags["sweep"] for run in tracked} == {f"sweep/{sweep.name}"}
    assert {run.data.params["lr"] for run in tracked} == {"0.1", "0.01"}


@pytest.mark.slow
def test_online_without_a_login_trains_and_does_not_ask(command, home):
    done = command(*TINY, f"data.root={command.data}", "name=run", "logger=[tensorboard,wandb]")
    assert done.returncode == 0, done.stderr
    message = "RuntimeError: no login; run wandb login, or use logger.wandb.mode=offline"
    assert f"logger wandb failed and is off for the rest of the run: {message}" in done.stdout
    assert f"logger wandb has not received the whole run: {message}" in done.stdout
    assert done.stdout.splitlines()[-2].startswith("loss ")
    assert event_points(command.run_of("run"))

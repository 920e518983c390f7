"""Configuration, overrides, summary, metrics table and lock of a run directory."""

import math
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

import fcn
from fcn import runs
from fcn.config import Config, ConfigError
from tests.commands import ROOT


def test_created_run_is_read_back(tmp_path):
    config = Config(name="mine", lr=0.25)
    runs.create(tmp_path / "run", config, overrides=["lr=0.25", "name=mine"])
    assert runs.load_config(tmp_path / "run") == config
    assert runs.load_overrides(tmp_path / "run") == ["lr=0.25", "name=mine"]
    assert runs.read_summary(tmp_path / "run") == {}
    assert runs.read_status(tmp_path / "run") is runs.Status.unfinished
    assert runs.read_metrics(tmp_path / "run") == []


def test_metrics_table_has_a_column_per_name(tmp_path):
    runs.write_metrics(tmp_path, [{"epoch": 0, "train/loss": 1.5}, {"epoch": 1, "train/loss": 1.25, "val/loss": 2.0}])
    assert runs.read_metrics(tmp_path) == [
        {"epoch": "0", "train/loss": "1.5", "val/loss": ""},
        {"epoch": "1", "train/loss": "1.25", "val/loss": "2.0"},
    ]
    # A resumed run appends its rows to those that were read.
    runs.write_metrics(tmp_path, [*runs.read_metrics(tmp_path), {"epoch": 2, "val/loss": 1.0}])
    assert [row["epoch"] for row in runs.read_metrics(tmp_path)] == ["0", "1", "2"]


def test_undefined_metric_is_null_in_the_summary(tmp_path):
    runs.write_summary(tmp_path, {"status": "finished", "metrics": {"val/iou/cat": math.nan, "val/loss": 0.5}})
    runs.set_status(tmp_path, runs.Status.failed)
    assert runs.read_status(tmp_path) is runs.Status.failed
    assert runs.read_summary(tmp_path)["metrics"] == {"val/iou/cat": None, "val/loss": 0.5}
    metrics = runs.final_metrics(tmp_path)
    assert math.isnan(metrics["val/iou/cat"])
    assert metrics["val/loss"] == 0.5


def test_status_can_be_set_before_the_first_summary(tmp_path):
    runs.set_status(tmp_path, runs.Status.failed)
    assert runs.read_status(tmp_path) is runs.Status.failed
    assert runs.final_metrics(tmp_path) == {}


HOLD = """
import sys, time
from pathlib import Path
from fcn import runs
with runs.locked(Path(sys.argv[1])):
    print(flush=True)
    time.sleep(60)
"""


def test_lock_is_released_when_its_process_is_killed(tmp_path):
    holder = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, cwd=ROOT)
    assert holder.stdout.readline()
    message = f"is being executed by process {holder.pid} on .*; wait for it to end, or stop it"
    with pytest.raises(ConfigError, match=message), runs.locked(tmp_path, patience=0):
        pass
    holder.kill()
    with runs.locked(tmp_path, patience=10):
        assert (tmp_path / runs.LOCK).read_text().startswith(f"process {os.getpid()} ")


def test_commands_of_one_second_get_different_directories(tmp_path):
    config = fcn.compose()

    def create(number):
        return runs.create(tmp_path / "time", config, overrides=[f"seed={number}"], is_time=True)

    with ThreadPoolExecutor(8) as threads:
        created = list(threads.map(create, range(8)))
    assert {path.name for path in created} == {"time", *(f"time_{number}" for number in range(2, 9))}
    assert [runs.load_overrides(path) for path in created] == [[f"seed={number}"] for number in range(8)]
    with pytest.raises(ConfigError, match="already holds a run"):
        runs.create(tmp_path / "time", config)


def test_folders_of_sweeps_of_one_second_are_different(tmp_path):
    with ThreadPoolExecutor(8) as threads:
        created = list(threads.map(lambda number: runs.create_folder(tmp_path / "x" / "time"), range(8)))
    assert {path.name for path in created} == {"time", *(f"time_{number}" for number in range(2, 9))}

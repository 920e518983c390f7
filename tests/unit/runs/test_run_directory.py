"""The files of a run directory: written whole or not at all, and read back as they were."""

import math
import os
import subprocess
import sys

import pytest

from fcn import runs
from fcn.config import Config, ConfigError
from tests.commands import ROOT


def test_a_created_run_is_read_back(tmp_path):
    config = Config(name="mine", lr=0.25)
    runs.create(tmp_path / "run", config, overrides=["lr=0.25", "name=mine"])
    assert runs.load_config(tmp_path / "run") == config
    assert runs.load_overrides(tmp_path / "run") == ["lr=0.25", "name=mine"]
    assert runs.read_summary(tmp_path / "run") == {}
    assert runs.read_metrics(tmp_path / "run") == []


def test_a_directory_holds_one_run(tmp_path):
    runs.create(tmp_path, Config(name="first"))
    with pytest.raises(ConfigError, match=r"already holds a run; resume it by resume="):
        runs.create(tmp_path, Config(name="second"))
    assert runs.load_config(tmp_path).name == "first"


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(ConfigError, match=r"must be a run directory, but it holds no config\.yaml"):
        runs.load_config(tmp_path)


def test_metrics_are_a_table_with_a_column_per_name(tmp_path):
    runs.write_metrics(tmp_path, [{"epoch": 0, "train/loss": 1.5}, {"epoch": 1, "train/loss": 1.25, "val/loss": 2.0}])
    assert runs.read_metrics(tmp_path) == [
        {"epoch": "0", "train/loss": "1.5", "val/loss": ""},
        {"epoch": "1", "train/loss": "1.25", "val/loss": "2.0"},
    ]
    # What was read can be written again, with new rows behind it: so a resumed run goes on.
    runs.write_metrics(tmp_path, [*runs.read_metrics(tmp_path), {"epoch": 2, "val/loss": 1.0}])
    assert [row["epoch"] for row in runs.read_metrics(tmp_path)] == ["0", "1", "2"]


@pytest.mark.parametrize("write", [lambda path: runs.write_text(path, "new"), lambda path: runs.copy_file(path, path)])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, write):
    path = tmp_path / "file"
    path.write_text("old")

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write(path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
    assert path.read_text() == "old"


def test_a_copy_stays_when_the_source_is_replaced(tmp_path):
    runs.write_text(tmp_path / "best", "first")
    runs.copy_file(tmp_path / "best", tmp_path / "last")
    runs.write_text(tmp_path / "best", "second")
    assert (tmp_path / "last").read_text() == "first"


def test_a_score_that_does_not_exist_is_null_in_the_summary(tmp_path):
    runs.write_summary(tmp_path, {"status": "finished", "metrics": {"val/iou/cat": math.nan, "val/loss": 0.5}})
    assert runs.read_summary(tmp_path)["metrics"] == {"val/iou/cat": None, "val/loss": 0.5}
    metrics = runs.final_metrics(tmp_path)
    assert math.isnan(metrics["val/iou/cat"])
    assert metrics["val/loss"] == 0.5


HOLD = """
import sys, time
from pathlib import Path
from fcn import runs
with runs.locked(Path(sys.argv[1])):
    print(flush=True)
    time.sleep(60)
"""


def test_a_run_is_executed_by_one_process_at_a_time(tmp_path):
    """A lock goes with the process that holds it, also when that is killed."""
    holder = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, cwd=ROOT)
    assert holder.stdout.readline()
    message = f"is being executed by process {holder.pid} on .*; wait for it to end, or stop it"
    with pytest.raises(ConfigError, match=message), runs.locked(tmp_path, patience=0):
        pass
    holder.kill()
    with runs.locked(tmp_path, patience=10):
        assert (tmp_path / runs.LOCK).read_text().startswith(f"process {os.getpid()} ")

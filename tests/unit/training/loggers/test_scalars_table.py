"""scalars.csv."""

import csv
import math

import pytest

from fcn.training.loggers.scalars_table import ScalarsTable


def rows_of(folder):
    with open(folder / "scalars.csv", newline="", encoding="utf-8") as file:
        return [(int(row["step"]), row["name"], float(row["value"])) for row in csv.DictReader(file)]


def test_rows_are_in_the_file_at_once_with_all_digits(tmp_path):
    table = ScalarsTable(tmp_path, step=0)
    table.log_metrics({"train/loss": 0.1 + 0.2, 'val/iou/a,"b"': math.pi}, 3)
    assert rows_of(tmp_path) == [(3, "train/loss", 0.1 + 0.2), (3, 'val/iou/a,"b"', math.pi)]
    table.finalize("success")


def test_resumed_run_replaces_rows_after_its_checkpoint(tmp_path):
    """Resumed at step 2; the row of step 4 was cut off when the process was killed."""
    table = ScalarsTable(tmp_path, step=0)
    for step in (1, 2, 3):
        table.log_metrics({"lr": 0.5 / step}, step)
    table.finalize("failed")
    with open(tmp_path / "scalars.csv", "a", encoding="utf-8") as file:
        file.write("4,l")
    resumed = ScalarsTable(tmp_path, step=2)
    resumed.log_metrics({"lr": 7.0}, 3)
    resumed.finalize("success")
    assert rows_of(tmp_path) == [(1, "lr", 0.5), (2, "lr", 0.25), (3, "lr", 7.0)]


def test_folder_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(OSError, match=r"missing/scalars.csv"):
        ScalarsTable(tmp_path / "missing", step=0)

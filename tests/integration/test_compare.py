"""The files that training and evaluation leave are those that comparing reads."""

import csv

import numpy as np
import pytest
from PIL import Image

from fcn import runs

pytestmark = pytest.mark.exhaustive


def test_two_runs_are_trained_evaluated_and_compared(command):
    first = command.train(name="first")
    second = command.train("lr=0.01", name="second")
    for run in (first, second):
        done = command(f"run={run}", "worst=0", "boundary_widths=[]", script="scripts/evaluate.py")
        assert done.returncode == 0, done.stderr
    files = ["--csv", "table.csv", "--html", "page.html", "--panel-figure", "panels.png"]
    done = command("outputs", *files, script="scripts/compare.py", COLUMNS="200")
    assert done.returncode == 0, done.stderr
    rows = {row["lr"]: row for row in csv.DictReader((command.folder / "table.csv").open())}
    assert set(rows) == {"0.001", "0.01"}
    for run, lr in ((first, "0.001"), (second, "0.01")):
        summary = runs.read_summary(run)
        assert float(rows[lr]["val/mean_iou"]) == summary["metrics"]["val/mean_iou"]
        assert float(rows[lr]["best val/mean_iou"]) == summary["best"]["val/mean_iou"]
    # The evaluation of best.ckpt scores what training said of it.
    best, other = rows.values()
    expected = float(other["best val/mean_iou"]) - float(best["best val/mean_iou"])
    assert float(other["difference"]) == pytest.approx(expected, abs=1e-6)
    assert (command.folder / "page.html").read_text().count("data:image/png;base64,") == 3
    assert np.asarray(Image.open(command.folder / "panels.png")).std() > 5

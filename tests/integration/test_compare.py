"""The compare command reads the files that training and evaluation write."""

import csv

import numpy as np
import pytest
from PIL import Image

from fcn import runs

pytestmark = pytest.mark.exhaustive


def test_train_evaluate_and_compare_two_runs(command):
    first = command.train(name="first")
    second = command.train("lr=0.01", name="second")
    for run in (first, second):
        done = command(f"run={run}", "worst=0", "boundary_widths=[]", script="scripts/evaluate.py")
        assert done.returncode == 0, done.stderr
    done = command("outputs", "--output", "comparison", script="scripts/compare.py", COLUMNS="200")
    assert done.returncode == 0, done.stderr
    folder = command.folder / "comparison"
    rows = {row["lr"]: row for row in csv.DictReader((folder / "comparison.csv").open())}
    assert set(rows) == {"0.001", "0.01"}
    for run, lr in ((first, "0.001"), (second, "0.01")):
        summary = runs.read_summary(run)
        assert float(rows[lr]["val/mean_iou"]) == summary["metrics"]["val/mean_iou"]
        assert float(rows[lr]["best val/mean_iou"]) == summary["best"]["val/mean_iou"]
    # The evaluation of best.ckpt reproduces the score measured during training.
    best, other = rows.values()
    expected = float(other["best val/mean_iou"]) - float(best["best val/mean_iou"])
    assert float(other["difference"]) == pytest.approx(expected, abs=1e-6)
    assert (folder / "comparison.html").read_text().count("data:image/png;base64,") == 3
    assert np.asarray(Image.open(folder / "predictions.png")).std() > 5

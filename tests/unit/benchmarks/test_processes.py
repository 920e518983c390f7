"""Benchmarks of whole commands: what is read from a finished run, and a command that fails."""

import os
import subprocess
import sys

import pytest

from benchmarks.ddp import milliseconds_of_last_epoch
from benchmarks.results import BenchmarkError
from benchmarks.start import seconds_of
from tests.commands import ROOT, TINY


def test_the_last_epoch_is_told_from_rates_that_count_from_the_beginning(tmp_path):
    # 4 steps of 8 images in 8 s, then 4 in 2 s.
    (tmp_path / "metrics.csv").write_text("epoch,step,images_per_second\n0,4,4.0\n1,8,6.4\n")
    assert milliseconds_of_last_epoch(tmp_path, 8) == pytest.approx(500)


def test_a_command_that_fails_is_named(tmp_path):
    with pytest.raises(BenchmarkError, match=r"python -c raise .* must succeed, but ended with 3: no message"):
        seconds_of(("-c", "raise SystemExit(3)"), tmp_path)


@pytest.mark.slow
def test_a_training_ends_at_its_first_step(tmp_path, shapes_root):
    command = ["-m", "benchmarks.first_step", *TINY, f"data.root={shapes_root}", "name=x"]
    done = subprocess.run([sys.executable, *command, "trainer=cpu"], cwd=tmp_path, capture_output=True, text=True,
                          env={**os.environ, "PYTHONPATH": str(ROOT)})  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "steps    2 epochs of 2 steps" in done.stdout
    (run,) = (tmp_path / "outputs" / "x").iterdir()
    assert not (run / "metrics.csv").exists()
    assert not list(run.glob("checkpoints/*"))

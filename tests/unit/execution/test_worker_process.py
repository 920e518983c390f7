"""`python -m fcn.worker RUN_DIR`."""

import os
import subprocess
import sys

import pytest

import fcn
from fcn import runs
from tests.commands import ROOT, TINY

WORKER = """
import atexit, runpy, sys
atexit.register(lambda: print("hydra imported:", "hydra" in sys.modules))
runpy.run_module("fcn.worker", run_name="__main__", alter_sys=True)
"""
RANK = {"TORCHELASTIC_RUN_ID": "1", "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}


def execute(run_dir, **environment):
    line = [sys.executable, "-c", WORKER, run_dir]
    return subprocess.run(line, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **environment})


@pytest.mark.parametrize("environment", [{}, pytest.param(RANK, marks=pytest.mark.slow)], ids=["one process", "rank"])
def test_worker_trains_without_importing_hydra(environment, shapes_root, tmp_path):
    small = ("backbone=squeezenet1_0", "data.crop_size=[32,32]", "epochs=1", "trainer=cpu", "trainer.sample_images=0")
    runs.create(tmp_path / "run", fcn.compose(*TINY, f"data.root={shapes_root}", *small))
    done = execute(tmp_path / "run", **environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("hydra imported: False\n")
    assert runs.read_summary(tmp_path / "run")["status"] == "finished"


@pytest.mark.parametrize("environment", [{}, pytest.param(RANK, marks=pytest.mark.slow)], ids=["one process", "rank"])
def test_worker_explains_a_missing_run_without_importing_hydra(environment, tmp_path):
    done = execute(tmp_path / "nothing", **environment)
    assert done.returncode == 1
    assert done.stdout == "hydra imported: False\n"
    assert done.stderr.splitlines()[-1].startswith(f"error: {tmp_path}/nothing must be a run directory")

"""One process or several: the same gradients up to the rounding of sums, the same counts to the last pixel."""

import os
import subprocess
import sys

import pytest
import torch

from tests.commands import ROOT
from tests.distributed.steps import CASES, first_step


@pytest.fixture(
    scope="module", params=[pytest.param(2, marks=pytest.mark.slow), pytest.param(4, marks=pytest.mark.exhaustive)]
)
def together(request, tmp_path_factory, shapes_root):
    """What the processes of one gloo group found."""
    path = tmp_path_factory.mktemp("steps") / "found.pt"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={request.param}"]
    done = subprocess.run(
        [*launcher, ROOT / "tests/distributed/steps.py", path, shapes_root],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    return torch.load(path, weights_only=True)


def distance(ours, theirs) -> float:
    """Between gradients, relative to their norm, over all weights."""
    ours, theirs = (torch.cat([gradient.flatten() for gradient in each.values()]) for each in (ours, theirs))
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("case", CASES)
def test_a_step_and_a_validation_do_not_depend_on_the_number_of_processes(together, shapes_root, case):
    ours, alone = together[case], first_step(shapes_root, *CASES[case])
    if case == "batch_norm":  # sees the images of its process by themselves, unless trainer.sync_batchnorm on GPUs
        assert distance(ours["gradients"], alone["gradients"]) > 0.01
        return
    assert ours["loss"] == pytest.approx(alone["loss"], rel=1e-5)
    assert distance(ours["gradients"], alone["gradients"]) < 1e-5
    assert torch.equal(ours["confusion"], alone["confusion"])
    assert ours["confusion"].sum() > 0.8 * 96 * 96
    for name, score in alone["scores"].items():
        assert ours["scores"][name] == pytest.approx(score, rel=1e-6, nan_ok=True), name

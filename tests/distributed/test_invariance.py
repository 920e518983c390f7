"""The number of processes changes gradients only by rounding, and does not change counts."""

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
    """Results of the cases of tests/distributed/steps.py in one group of gloo processes."""
    path = tmp_path_factory.mktemp("steps") / "results.pt"
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
    """Return the norm of the difference of two gradients over all weights, relative to the norm of the second."""
    ours, theirs = (torch.cat([gradient.flatten() for gradient in each.values()]) for each in (ours, theirs))
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("case", CASES)
def test_step_and_validation_do_not_depend_on_number_of_processes(together, shapes_root, case):
    ours, alone = together[case], first_step(shapes_root, *CASES[case])
    if case == "batch_norm":  # normalises the images of each process separately, without trainer.sync_batchnorm on GPUs
        assert distance(ours["gradients"], alone["gradients"]) > 0.01
        return
    assert ours["loss"] == pytest.approx(alone["loss"], rel=1e-5)
    assert distance(ours["gradients"], alone["gradients"]) < 1e-5
    assert torch.equal(ours["confusion"], alone["confusion"])
    assert ours["confusion"].sum() > 0.8 * 96 * 96
    for name, score in alone["scores"].items():
        assert ours["scores"][name] == pytest.approx(score, rel=1e-6, nan_ok=True), name

"""scripts/compare_losses.py: digits by hand, and two versions of the code in a clone."""

import math
import shutil
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scripts.compare_losses import Trained, first_differing_digit, summary
from tests.commands import ROOT

NAN = float("nan")


@pytest.mark.parametrize(
    ("value", "other", "place"),
    [
        (1.5, 1.5, None),
        (NAN, NAN, None),
        (0.0, -0.0, None),
        (1.0, 2.0, 1),
        (1.25, 1.26, 3),
        (0.00125, 0.00126, 3),
        (1.25, 12.5, 1),  # other exponents
        (1.25, -1.25, 1),
        (1.0, math.nextafter(1.0, 2), 17),  # 1.00000000000000022
        (9.0, math.nextafter(9.0, 10), 16),  # 9.0000000000000018
        (1.0, NAN, 1),
    ],
)
def test_place_of_the_first_differing_digit(value, other, place):
    assert first_differing_digit(value, other) == first_differing_digit(other, value) == place


@given(st.floats(), st.floats())
def test_every_difference_has_a_digit(value, other):
    place = first_differing_digit(value, other)
    same = value == other or (math.isnan(value) and math.isnan(other))
    assert place is None if same else 1 <= place <= 17


def test_summary_names_the_first_difference():
    one, other = {"a": torch.ones(3), "b": torch.ones(3)}, {"a": torch.ones(3), "b": torch.zeros(3)}
    base = Trained([1.0, NAN], one)
    assert summary(base, base) == ("equal: the losses of 2 steps and 2 tensors, to the last bit", True)
    now = Trained([1.0, NAN], other)
    assert summary(base, now) == ("different: the losses are equal; differing tensors: 1, first b", False)
    now = Trained([1.0, 2.0], one)
    assert summary(base, now) == ("different: the losses differ from step 2 on; the weights are equal", False)


def compare_losses(tree, *arguments):
    script = [sys.executable, str(tree / "scripts/compare_losses.py"), *arguments]
    return subprocess.run(script, cwd=tree, capture_output=True, text=True, timeout=200)


@pytest.mark.exhaustive
@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="needs a git checkout")
def test_changed_code_is_found(tmp_path, shapes_root):
    """In a clone, so that neither this checkout nor its list of worktrees changes."""
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", "--shared", str(ROOT), str(clone)], check=True)
    shutil.copy(ROOT / "scripts/compare_losses.py", clone / "scripts/compare_losses.py")
    small = ("backbone=squeezenet1_0", "data.shapes.num_train=8", "data.shapes.num_val=1", "batch_size=4")
    arguments = ("HEAD", "--steps", "2", f"data.root={shapes_root}", "trainer=cpu", *small)
    optim = clone / "fcn/training/optim.py"
    source = optim.read_text()
    assert "config.head_lr_multiplier" in source
    optim.write_text(source.replace("config.head_lr_multiplier", "1.01 * config.head_lr_multiplier"))
    done = compare_losses(clone, *arguments)
    assert (done.returncode, done.stderr) == (1, "")
    # The first loss, that of the initial weights, is equal to the last digit.
    assert "different: the losses differ from step 2 on" in done.stdout

    done = compare_losses(clone, *arguments, "lr=-1")  # it ends before it trains
    assert done.returncode == 1
    assert done.stderr.startswith("error: the run in ")
    assert "lr (=-1.0) must be at least 0" in done.stderr
    assert not list(tmp_path.glob("compare_losses_*"))
    done = compare_losses(clone, "no_such_commit")
    assert done.stderr == f"error: base (=no_such_commit) must be a commit of {clone}; see git log\n"
    worktrees = subprocess.run(["git", "worktree", "list"], cwd=clone, capture_output=True, text=True, check=True)
    assert worktrees.stdout.count("\n") == 1

"""A dry run has the images, bytes and messages of a real run of two gloo processes."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.commands import ROOT, TINY, error_message

pytestmark = pytest.mark.slow


def execute(*arguments: object) -> None:
    script = ROOT / "tests/distributed/shares.py"
    line = [sys.executable, *(arguments[:-2]), script, *arguments[-2:]]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(line, env=env, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr


def test_each_rank_has_the_images_and_bytes_of_a_real_run(tmp_path: Path, shapes_root: Path):
    execute("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", tmp_path / "real", shapes_root)
    execute(tmp_path / "dry", shapes_root)
    dry = torch.load(tmp_path / "dry", weights_only=True)
    real = [torch.load(tmp_path / f"real{rank}", weights_only=True) for rank in range(2)]
    for ours, theirs in zip(dry, real, strict=True):
        assert len(ours["batches"]) == len(theirs["batches"]) == 2
        for one, other in zip(ours["batches"], theirs["batches"], strict=True):
            assert len(one["image"]) == 4
            assert all(torch.equal(one[name], other[name]) for name in ("image", "mask"))
        assert sorted(ours["buckets"]) == sorted(theirs["buckets"])
        total = f"{sum(theirs['buckets']):,} bytes per step in {len(theirs['buckets'])} buckets"
        assert ours["table"]["gradients"] == total
    assert not torch.equal(dry[0]["batches"][0]["image"], dry[1]["batches"][0]["image"])
    assert sorted(each["validated"] for each in real) == [2, 3]
    assert {each["table"]["validation images"] for each in dry} == {"2 to 3 per process"}


@pytest.mark.parametrize(
    "overrides",
    [
        ("batch_size=18",),
        pytest.param(("schedule.warmup_steps=100",), marks=pytest.mark.exhaustive),
        pytest.param(
            ("backbone=resnet18", "batch_size=2", "data.crop_size=[16,16]", "data.augmentation.scale=[0.1,0.1]"),
            marks=pytest.mark.exhaustive,
        ),
    ],
)
def test_errors_are_those_of_a_real_run(command, overrides):
    arguments = (*TINY, f"data.root={command.data}", *overrides)
    dry = error_message(command(*arguments, "trainer.dry_run_processes=2").stderr)
    real = error_message(command(*arguments, "trainer=ddp_cpu").stderr)
    assert re.fullmatch(rf"rank \d failed: ConfigError: {re.escape(dry)}", real)

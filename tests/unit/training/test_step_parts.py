"""Parts of a step: `trainer.accumulate=auto` finds their number without another effect on the result."""

import os
import platform
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch

import fcn
from fcn import runs
from fcn.config.composition import compose
from fcn.errors import RunFailure
from fcn.models.network import SegmentationNetwork
from fcn.training.step_parts import StepParts
from fcn.training.task import SegmentationTask
from tests.commands import ROOT, TINY
from tests.identical_runs import assert_identical

AUTO = "trainer.accumulate=auto"
SMALL = (*TINY, "trainer=cpu", "trainer.sample_images=0", "data.crop_size=[48,48]")
"""Four steps of eight images."""
HEAD = ("model=conv_head", "model.channels=8", "model.auxiliary_weight=0.4")
"""Batch norm and dropout."""
DEEPLAB = ("backbone=mobilenet_v3_large", "model=torchvision", "model.name=deeplabv3_mobilenet_v3_large")
"""Batch norm after global pooling, which needs two images."""

pytestmark = pytest.mark.usefixtures("without_pictures")


@pytest.fixture
def train(shapes_root, tmp_path):
    """Train a small run in a folder below the test's; its directory."""

    def run(name: str, *overrides: str):
        fcn.train(compose(*SMALL, f"data.root={shapes_root}", *overrides), tmp_path / name)
        return tmp_path / name

    return run


def out_of_gpu_memory(*_):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of ...")


@pytest.fixture
def passes(monkeypatch):
    """Numbers of images in the forward passes of training; `limit` limits them in the backward pass."""
    state = SimpleNamespace(sizes=[], limit=lambda task: 1000, task=None)
    all_logits, training_step = SegmentationNetwork.all_logits, SegmentationTask.training_step

    def limited(network, images):
        logits = all_logits(network, images)
        if logits[0].requires_grad and not images.is_meta:
            state.sizes.append(len(images))
            if len(images) > state.limit(state.task):
                logits[0].register_hook(out_of_gpu_memory)
        return logits

    def noted_step(task, *args):
        state.task = task
        return training_step(task, *args)

    monkeypatch.setattr(SegmentationNetwork, "all_logits", limited)
    monkeypatch.setattr(SegmentationTask, "training_step", noted_step)
    return state


def log_of(run) -> str:
    return (run / runs.LOG).read_text()


@pytest.mark.parametrize(
    ("limit", "options"),
    [
        (2, ()),
        (1, ()),
        (2, ("trainer.precision=bf16", "data.protocol=d2l", "data.shapes.num_val=8", "callbacks=[ema]")),
    ],
    ids=str,
)
def test_result_equals_that_of_a_run_with_the_number(train, passes, limit, options):
    """An attempt fails after it has changed statistics, random numbers, counts and some gradients."""
    passes.limit = lambda task: limit
    run = train("auto", AUTO, *HEAD, *options)
    number = 8 // limit
    failed = [size for size in (8, 4, 2) if size > limit]
    assert passes.sizes == [*failed, *[limit] * number * 6]  # two trials and four steps
    assert runs.read_summary(run)["accumulate"] == number
    log = log_of(run)
    for line in ("1 x 8 images per process of a step do not fit", "2 x 4 images per process of a step do not fit"):
        assert log.count(line) == 1
    assert log.count(f"parts    each step in {number} x {limit} images per process (trainer.accumulate=auto)") == 1
    assert_identical(run, train("number", f"trainer.accumulate={number}", *HEAD, *options))


def test_step_that_fits_is_not_divided(train, passes):
    run = train("auto", AUTO, *HEAD)
    assert passes.sizes == [8] * 6
    assert runs.read_summary(run)["accumulate"] == 1
    assert_identical(run, train("one", *HEAD))


def test_second_trial_is_with_the_state_of_the_optimizer(train, passes):
    passes.limit = lambda task: 4 if task.trainer.optimizers[0].state else 8
    run = train("auto", AUTO)
    assert passes.sizes == [8, 8, 8, 4, 4, *[4] * 6]
    assert runs.read_summary(run)["accumulate"] == 2
    assert log_of(run).count("parts    each step in") == 2


def test_later_steps_are_not_tried(train, passes):
    passes.limit = lambda task: 4 if task.global_step == 2 else 8
    with pytest.raises(RunFailure, match=r"out of GPU memory \(tried to allocate 2.50 GiB\): ") as failure:
        train("auto", AUTO)
    assert passes.sizes == [8] * 5
    assert "trainer.accumulate" not in str(failure.value)


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ((), [8, 4, 2, 1]),
        (("batch_size=6", "data.shapes.num_train=12"), [6, 3, 1]),
        # One image has one value per channel, which batch norm refuses.
        (("backbone=resnet18", "data.crop_size=[32,32]"), [8, 4, 2]),
        ((*DEEPLAB, "batch_size=6", "data.shapes.num_train=12"), [6, 3, 2]),
    ],
    ids=str,
)
def test_smallest_part_that_does_not_fit_is_one_line(train, passes, options, sizes):
    passes.limit = lambda task: 0
    with pytest.raises(RunFailure) as failure:
        train("auto", AUTO, *options)
    assert [size for number, size in enumerate(passes.sizes) if size not in passes.sizes[:number]] == sizes
    (line,) = str(failure.value).splitlines()
    assert line.startswith("out of GPU memory (tried to allocate 2.50 GiB): lower trainer.val_batch_size (=null), ")
    assert "use trainer.activation_checkpointing=true, in a new run lower data.crop_size" in line


def test_other_errors_of_a_trial_are_not_caught(train, monkeypatch):
    def fail(network, images):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(SegmentationNetwork, "all_logits", fail)
    with pytest.raises(RunFailure, match="RuntimeError: mat1 and mat2 shapes cannot be multiplied"):
        train("auto", AUTO)


def test_resumed_run_continues_with_the_number(train, passes, monkeypatch):
    """It is stopped after the first step, and resumed with more memory, and then with less."""
    training_step = SegmentationTask.training_step

    def interrupted(task, *args):
        os.kill(os.getpid(), signal.SIGTERM)
        return training_step(task, *args)

    for limit, sizes in ((4, [8, 4, 4, 4, 4]), (8, [4] * 4), (2, [4, *[2] * 8])):
        passes.limit = lambda task, limit=limit: limit
        passes.sizes.clear()
        with monkeypatch.context() as patch:
            patch.setattr(SegmentationTask, "training_step", interrupted)
            with pytest.raises(SystemExit):
                train("auto", AUTO, "data.shapes.num_train=32")
        assert passes.sizes == sizes
    run = train("auto", AUTO, "data.shapes.num_train=32")
    assert runs.read_summary(run)["accumulate"] == 4
    assert torch.load(run / runs.LAST, weights_only=True)["accumulate"] == 4


@pytest.mark.parametrize(
    ("number", "before", "now", "batch_size", "expected"),
    [(4, 1, 1, 8, 4), (4, 1, 2, 8, 2), (2, 2, 1, 8, 4), (1, 2, 1, 6, 2), (2, 3, 2, 12, 3), (4, 2, 4, 8, 2)],
)
def test_parts_are_not_larger_on_another_number_of_processes(number, before, now, batch_size, expected):
    parts = StepParts(compose("trainer=cpu", AUTO, f"batch_size={batch_size}"))
    parts.resume({"accumulate": number, "metrics": [{}] * before}, processes=now)
    assert parts.number == expected


def test_number_of_a_checkpoint_does_not_replace_a_configured_one():
    parts = StepParts(compose("trainer=cpu", "trainer.accumulate=2"))
    parts.resume({"accumulate": 4, "metrics": [{}]}, processes=1)
    assert parts.number == 2


LIMITED_RUN = """
import resource, sys
from pathlib import Path
import torch
import fcn
from fcn.training.task import SegmentationTask

# oneDNN does not recover from an allocation of its own that has failed.
torch.backends.mkldnn.enabled = False

on_train_start, on_validation_start = SegmentationTask.on_train_start, SegmentationTask.on_validation_start

def limit(size):
    resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))

def limited_start(task):
    on_train_start(task)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit(pages * resource.getpagesize() + 125 * 2**20)

def unlimited_start(task):
    limit(resource.RLIM_INFINITY)
    on_validation_start(task)

SegmentationTask.on_train_start, SegmentationTask.on_validation_start = limited_start, unlimited_start
fcn.train(fcn.compose(*sys.argv[2:]), Path(sys.argv[1]))
"""


@pytest.mark.slow
@pytest.mark.skipif(platform.system() != "Linux", reason="needs the limit of Linux on the address space")
def test_real_limit_of_the_memory(shapes_root, tmp_path, monkeypatch):
    """125 MiB are free; a step takes 290 MiB in one part, 170 MiB in two parts, and 95 MiB in four parts.

    Two parts fit if the allocator has kept enough of what the trial of one part has freed.
    """
    overrides = [*SMALL, f"data.root={shapes_root}", "data.crop_size=[128,128]", "batch_size=16", "epochs=1",
                 "data.shapes.num_train=32"]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", LIMITED_RUN, str(tmp_path / "auto"), *overrides, AUTO]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "1 x 16 images per process of a step do not fit into the memory" in done.stdout
    number = runs.read_summary(tmp_path / "auto")["accumulate"]
    assert number in (2, 4, 8)
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    fcn.train(compose(*overrides, f"trainer.accumulate={number}"), tmp_path / "number")
    assert_identical(tmp_path / "auto", tmp_path / "number")

"""Runs are bit-identical for any number of workers and after any interruption (docs/exactness.md)."""

import json
import os
import random
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import fcn
from fcn import runs
from fcn.execution import processes
from fcn.training.task import SegmentationTask
from tests.commands import TINY, Command, interrupt, train_in_process, wait_for
from tests.identical_runs import assert_identical, scalar_columns, step_curves

# Four steps per epoch, so that a run can be stopped within an epoch; validation every second epoch.
LONGER = (
    "data.shapes.num_train=16",
    "batch_size=4",
    "epochs=3",
    "trainer.val_every=2",
    "data.augmentation.scale=[0.5,2.0]",
    "backbone=resnet18",  # with statistics of batch norm
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, shapes_root):
    """Directory of a run with these overrides, executed in this process."""

    def train(*overrides: str):
        return train_in_process(tmp_path_factory.mktemp("runs") / "run", shapes_root, *LONGER, *overrides)

    return train


@pytest.fixture(scope="module")
def uninterrupted(trained):
    return trained()


def test_number_of_workers_changes_no_bit(trained, uninterrupted):
    assert_identical(trained("data.num_workers=2"), uninterrupted)


def test_steps_of_whole_epochs_are_bit_identical_to_epochs(trained, uninterrupted):
    """The steps of validations, here every 8 and after the last one, have no effect on training."""
    steps = trained("epochs=null", "steps=12", "trainer.val_every=1", "trainer.val_every_steps=8")
    ours, theirs = (torch.load(run / runs.LAST, weights_only=True) for run in (steps, uninterrupted))
    for name, weight in theirs["state_dict"].items():
        assert torch.equal(ours["state_dict"][name], weight), name
    rows = [row for row in scalar_columns(uninterrupted) if row["val/mean_iou"]]
    assert [row["step"] for row in scalar_columns(steps)] == [row["step"] for row in rows] == ["8", "12"]
    for row, other in zip(scalar_columns(steps), rows, strict=True):
        assert all(value == other[key] for key, value in row.items() if key.startswith(("val/", "upsampling/")))
    assert step_curves(steps) == step_curves(uninterrupted)
    assert sorted(path.name for path in (steps / "samples").iterdir()) == ["step_000008.png", "step_000012.png"]


def test_last_epoch_is_validated_with_any_val_every(uninterrupted):
    assert [bool(row["val/mean_iou"]) for row in scalar_columns(uninterrupted)] == [False, True, True]


@dataclass(frozen=True)
class Interruption:
    """A run of 12 steps in 3 epochs that is stopped after some steps, resumed, and compared with the uninterrupted run.

    Attributes:
        promise: guarantee of docs/exactness.md that the case tests.
        steps: numbers of steps after which the process receives SIGTERM.
        overrides: overrides of the interrupted and the uninterrupted run.
    """

    promise: str
    steps: tuple[int, ...]
    overrides: tuple[str, ...] = ()


INTERRUPTIONS = {
    "within an epoch": Interruption("the position in the epoch is in the checkpoint", (2,)),
    "at the end of an epoch": Interruption("the counts of the epoch are in the checkpoint", (4,)),
    "twice": Interruption("the order of an epoch depends on seed and epoch only", (3, 7)),
    "with two workers": Interruption("augmented images do not depend on workers", (5,), ("data.num_workers=2",)),
    "in parts": Interruption("the images of a step do not depend on its parts", (6,), ("trainer.accumulate=2",)),
    "frozen batch norm": Interruption(
        "statistics of frozen batch norm never change", (2,), ("backbone=resnet18", "model.freeze_batchnorm=true")
    ),
    "in the last of several rounds": Interruption(
        "the position in a round of `trainer.val_every_steps` is in the checkpoint",
        (4, 11),
        ("epochs=null", "steps=12", "trainer.val_every=1", "trainer.val_every_steps=5"),
    ),
    **{
        f"loss={loss}": Interruption("the count of a loss is in the checkpoint", (3,), (f"loss={loss}",))
        for loss in ("image_sum", "focal", "dice", "cross_entropy_dice", "lovasz", "ohem")
    },
    "class weights": Interruption(
        "class weights are in the checkpoint",
        (3,),
        ("loss.class_weights=median_frequency", "loss.label_smoothing=0.1"),
    ),
    "d2l protocol": Interruption("the crops of d2l's test depend on the epoch only", (9,), ("data.protocol=d2l",)),
    "LAMB, clipping and one cycle": Interruption(
        "optimiser and schedule are in the checkpoint",
        (6,),
        ("optim=lamb", "optim.clip_norm=0.5", "schedule=onecycle"),
    ),
    "PSPNet of smp": Interruption(
        "dropout depends on the step only",
        (6,),
        ("backbone=smp", "backbone.name=resnet18", "model=smp", "model.name=pspnet"),
    ),
    "frozen backbone": Interruption("a frozen backbone has no state", (5,), ("backbone.trainable=false",)),
    "averaged weights": Interruption(
        "the average and the weights that are trained are in the checkpoint", (2, 8), ("callbacks=[ema]",)
    ),
    "averaged batch norm": Interruption(
        "averaged statistics are in the checkpoint",
        (3, 4),
        (
            "callbacks=[ema]",
            "callbacks.ema.decay=0.9",
            "backbone=resnet18",
            "optim.clip_norm=0.5",
            "trainer.accumulate=2",
            "model.auxiliary_weight=0.4",
            "epochs=null",
            "steps=12",
            "trainer.val_every=1",
            "trainer.val_every_steps=5",
        ),
    ),
    "averaged weights on a frozen backbone": Interruption(
        "the average of frozen weights equals them", (5,), ("callbacks=[ema]", "backbone.trainable=false")
    ),
    "patience of early stopping": Interruption(
        "the number of validations without improvement is in the checkpoint",
        (3, 8, 10),
        (
            "callbacks=[early_stopping,ema]",
            "callbacks.early_stopping.patience=2",
            "callbacks.early_stopping.min_delta=1",
            "epochs=5",
            "trainer.val_every=1",
        ),
    ),
    "AdamW and warm-up": Interruption(
        "optimiser and schedule are in the checkpoint",
        (2,),
        ("optim=adamw", "schedule=cosine", "schedule.warmup_steps=3"),
    ),
}


SAME_AS_OTHERS = ("loss=focal", "loss=dice", "loss=lovasz", "averaged weights on a frozen backbone")
"""Situations that share their code with others, which CI tests."""


@pytest.mark.parametrize(
    "situation",
    [
        pytest.param(
            name, marks=[pytest.mark.slow] * (number > 2) + [pytest.mark.exhaustive] * (name in SAME_AS_OTHERS)
        )
        for number, name in enumerate(INTERRUPTIONS)
    ],
)
@pytest.mark.usefixtures("without_pictures")
def test_interrupted_run_resumes_bit_for_bit(situation, tmp_path, shapes_root, monkeypatch):
    case = INTERRUPTIONS[situation]
    if "model=smp" in case.overrides:
        pytest.importorskip("segmentation_models_pytorch")
    small = ("backbone=squeezenet1_0", "trainer.sample_images=0", "trainer=cpu", f"data.root={shapes_root}")
    config = fcn.compose(*TINY, *LONGER, *small, *case.overrides)
    fcn.train(config, tmp_path / "uninterrupted")
    training_step, run = SegmentationTask.training_step, tmp_path / "interrupted"
    for step in case.steps:

        def interrupted_step(task, *args, step=step):
            if task.global_step + 1 == step:
                os.kill(os.getpid(), signal.SIGTERM)
            return training_step(task, *args)

        monkeypatch.setattr(SegmentationTask, "training_step", interrupted_step)
        with pytest.raises(SystemExit) as end:
            fcn.train(config, run)
        assert end.value.code == 128 + signal.SIGTERM
        assert torch.load(run / runs.LAST, weights_only=True)["global_step"] == step
        assert runs.read_summary(run)["status"] == "interrupted"
    fcn.train(config, run)
    assert_identical(run, tmp_path / "uninterrupted")


def stop_at(command: Command, name: str, step: int, number: int):
    """Start a run and send it a signal after `step`; the completed command and the run directory."""
    process = command.start(*TINY, *LONGER, f"data.root={command.data}", f"name={name}")
    folder = command.folder / "outputs" / name

    def reached() -> bool:
        for run in folder.glob("*"):
            if list(run.glob("events.*")):
                events = EventAccumulator(str(run))
                events.Reload()
                tags = events.Tags()["scalars"]
                return "train/loss_step" in tags and events.Scalars("train/loss_step")[-1].step >= step
        return False

    wait_for(reached, process=process)
    return interrupt(process, number), command.run_of(name)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.exhaustive)]
)
def test_signalled_command_saves_and_its_run_resumes_bit_for_bit(module_command, uninterrupted, number, status):
    step = random.SystemRandom().randint(1, 4)
    done, run = stop_at(module_command, f"stopped_{status}", step, number)
    assert done.returncode == status, done.stderr
    assert done.stderr == ""
    stopped = torch.load(run / runs.LAST, weights_only=True)["global_step"]
    assert step <= stopped < 12
    run_dir = run.relative_to(module_command.folder)
    assert f"interrupted at step {stopped}; continue with resume={run_dir}" in done.stdout
    assert json.loads((run / "summary.json").read_text())["status"] == "interrupted"

    first = json.loads((run / "summary.json").read_text())["started"]
    resumed = module_command(f"resume={run}")
    assert resumed.returncode == 0, resumed.stderr
    assert_identical(run, uninterrupted)
    summary = json.loads((run / "summary.json").read_text())
    assert [earlier["started"] for earlier in summary["history"]] == [first] < [summary["started"]]


def kill(process, folder: Path, *, half_written: bool) -> None:
    """Send SIGKILL while a checkpoint is being written, or at a random time after one."""
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/checkpoints/last.ckpt")}

    def reached() -> bool:
        if half_written:
            return any(folder.glob("*/checkpoints/.*.tmp"))
        return any(path.stat().st_mtime_ns != before.get(path) for path in folder.glob("*/checkpoints/last.ckpt"))

    wait_for(lambda: reached() or process.poll() is not None)
    if not half_written:
        time.sleep(random.SystemRandom().random() / 2)
    interrupt(process, signal.SIGKILL)


AVERAGED_AND_STOPPED = (
    "callbacks=[ema,early_stopping]", "callbacks.early_stopping.patience=1", "callbacks.early_stopping.min_delta=1",
    "epochs=6",
)  # fmt: skip
"""Stopped at the second validation, after 16 of 24 steps."""


SAME_COMMAND = ("autoresume=true",)
"""Repeating the command resumes the run."""


@pytest.mark.parametrize(
    ("kills", "overrides"),
    [
        (1, SAME_COMMAND),
        pytest.param(2, AVERAGED_AND_STOPPED, marks=pytest.mark.slow),
        pytest.param(24, (), marks=pytest.mark.exhaustive),
        pytest.param(24, AVERAGED_AND_STOPPED, marks=pytest.mark.exhaustive),
    ],
)
def test_killed_run_resumes_bit_for_bit(module_command, trained, uninterrupted, kills, overrides):
    """Kill a run repeatedly and truncate its newest checkpoint; after a run that finishes, start the next one."""
    name = f"killed_{kills}_{len(overrides)}"
    folder = module_command.folder / "outputs" / name
    expected = trained(*overrides) if overrides is AVERAGED_AND_STOPPED else uninterrupted
    always = ["trainer.checkpoint_steps=1", f"data.root={module_command.data}", f"name={name}"]
    begin = [*TINY, *LONGER, *overrides, *always]
    command, partial, finished = begin, 0, 0
    for number in range(kills + 100):
        process = module_command.start(*command)
        if number < kills:
            kill(process, folder, half_written=number % 2 == 0)
        process.communicate(timeout=280)
        run = module_command.run_of(name)
        partial += any(run.glob("checkpoints/.*.tmp"))
        # As a power failure may leave it.
        if process.returncode and number % 3 == 2 and (run / runs.PREVIOUS).exists():
            half = (run / runs.LAST).read_bytes()[: random.SystemRandom().randint(0, 10**6)]
            (run / runs.LAST).unlink()  # a hard link to other checkpoints
            (run / runs.LAST).write_bytes(half)
        command = begin if overrides is SAME_COMMAND else [f"resume={run}"]
        if process.returncode == 0:
            assert_identical(run, expected)
            assert not list(run.rglob("*.tmp"))
            finished, command = finished + 1, begin
            shutil.rmtree(run)
            if number >= kills:
                break
    assert partial >= kills // 4
    assert finished


@pytest.mark.exhaustive
def test_run_directory_is_executed_as_a_job(uninterrupted, tmp_path):
    """A run directory that contains only config.yaml can be executed."""
    run = tmp_path / "job"
    run.mkdir()
    (run / "config.yaml").write_text((uninterrupted / "config.yaml").read_text())
    processes.execute(run)
    assert_identical(run, uninterrupted)

"""Same seed, same bits: whatever the number of workers, and after any stop."""

import json
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import fcn
from fcn import runs
from fcn.execution import processes
from tests.commands import TINY, Command, interrupt, wait_for

# More steps than TINY has, to be stopped in the middle of an epoch; validation every other epoch.
LONGER = (
    "data.shapes.num_train=16",
    "batch_size=4",
    "epochs=3",
    "trainer.val_every=2",
    "data.augmentation.scale=[0.5,2.0]",
)


def final_state(run):
    return torch.load(run / "checkpoints/last.ckpt", weights_only=True)


def assert_same_bits(run, other):
    ours, theirs = final_state(run), final_state(other)
    assert ours["global_step"] == theirs["global_step"]
    for name, weight in ours["state_dict"].items():
        assert torch.equal(weight, theirs["state_dict"][name]), name
    (optimizer,), (other_optimizer,) = ours["optimizer_states"], theirs["optimizer_states"]
    for index, moments in optimizer["state"].items():
        for name, moment in moments.items():
            assert torch.equal(moment, other_optimizer["state"][index][name]), name
    summaries = [json.loads((path / "summary.json").read_text()) for path in (run, other)]
    assert summaries[0]["metrics"] == summaries[1]["metrics"]
    assert summaries[0]["best"] == summaries[1]["best"]
    assert summaries[0]["status"] == summaries[1]["status"] == "finished"


def scalar_columns(run):
    """metrics.csv without what depends on the clock or the machine."""
    lines = [line.split(",") for line in (run / "metrics.csv").read_text().splitlines()]
    kept = [place for place, name in enumerate(lines[0]) if name not in ("images_per_second", "memory_mib")]
    assert {"gradient_norm", "upsampling/drift/upscore"} <= {lines[0][place] for place in kept}
    return [[line[place] for place in kept] for line in lines]


def step_curves(run):
    """Points of the step curves as TensorBoard shows them."""
    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    tags = ("train/loss_step", "gradient_norm", "lr")
    return {tag: [(point.step, point.value) for point in events.Scalars(tag)] for tag in tags}


@pytest.fixture(scope="module")
def trained(tmp_path_factory, shapes_root):
    """Run directory of a run made in this process, by the Python API."""

    def train(*overrides: str):
        run = tmp_path_factory.mktemp("runs") / "run"
        fcn.train(fcn.compose(*TINY, *LONGER, f"data.root={shapes_root}", "trainer=cpu", *overrides), run)
        return run

    return train


@pytest.fixture(scope="module")
def uninterrupted(trained):
    return trained()


def test_workers_change_nothing(trained, uninterrupted):
    assert_same_bits(trained("data.num_workers=2"), uninterrupted)


def test_the_last_epoch_is_validated_whatever_val_every(uninterrupted):
    header, *rows = scalar_columns(uninterrupted)
    column = header.index("val/mean_iou")
    assert [bool(row[column]) for row in rows] == [False, True, True]


def stop_at(command: Command, name: str, step: int, number: int):
    """Start a run and send it a signal once `step` has been logged; what it printed, and its directory."""
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
def test_a_stopped_run_is_usable_and_goes_on_bit_for_bit(module_command, uninterrupted, number, status):
    step = random.SystemRandom().randint(1, 4)
    done, run = stop_at(module_command, f"stopped_{status}", step, number)
    assert done.returncode == status, done.stderr
    assert done.stderr == ""
    stopped = final_state(run)["global_step"]
    assert step <= stopped < 12
    assert f"interrupted at step {stopped}; go on with resume={run.relative_to(module_command.folder)}" in done.stdout
    assert json.loads((run / "summary.json").read_text())["status"] == "interrupted"

    first = json.loads((run / "summary.json").read_text())["started"]
    resumed = module_command(f"resume={run}")
    assert resumed.returncode == 0, resumed.stderr
    assert_same_bits(run, uninterrupted)
    assert scalar_columns(run) == scalar_columns(uninterrupted)
    assert step_curves(run) == step_curves(uninterrupted)
    summary = json.loads((run / "summary.json").read_text())
    assert [earlier["started"] for earlier in summary["history"]] == [first] < [summary["started"]]


def kill(process, folder: Path, *, half_written: bool) -> None:
    """By SIGKILL, while a checkpoint is being written, or at any time after one."""
    seen = {path: path.stat().st_mtime_ns for path in folder.glob("*/checkpoints/last.ckpt")}

    def reached() -> bool:
        if half_written:
            return any(folder.glob("*/checkpoints/.*.tmp"))
        return any(path.stat().st_mtime_ns != seen.get(path) for path in folder.glob("*/checkpoints/last.ckpt"))

    wait_for(lambda: reached() or process.poll() is not None)
    if not half_written:
        time.sleep(random.SystemRandom().random() / 2)
    interrupt(process, signal.SIGKILL)


@pytest.mark.parametrize("kills", [1, pytest.param(24, marks=pytest.mark.exhaustive)])
def test_a_killed_run_goes_on_bit_for_bit(module_command, uninterrupted, kills):
    """Killed again and again, its newest checkpoint cut off; a run that ends in spite of it is followed by another."""
    name = f"killed_{kills}"
    folder = module_command.folder / "outputs" / name
    begin = [*TINY, *LONGER, "trainer.checkpoint_steps=1", f"data.root={module_command.data}", f"name={name}"]
    command, torn, finished = begin, 0, 0
    for number in range(kills + 100):
        process = module_command.start(*command)
        if number < kills:
            kill(process, folder, half_written=number % 2 == 0)
        process.communicate(timeout=280)
        run = module_command.run_of(name)
        torn += any(run.glob("checkpoints/.*.tmp"))
        if number % 3 == 2 and (run / runs.PREVIOUS).exists():  # as a power cut may leave it
            half = (run / runs.LAST).read_bytes()[: random.SystemRandom().randint(0, 10**6)]
            (run / runs.LAST).unlink()  # whose content other names may share
            (run / runs.LAST).write_bytes(half)
        command = [f"resume={run}"]
        if process.returncode == 0:
            assert_same_bits(run, uninterrupted)
            assert scalar_columns(run) == scalar_columns(uninterrupted)
            assert step_curves(run) == step_curves(uninterrupted)
            assert not list(run.rglob("*.tmp"))
            finished, command = finished + 1, begin
            shutil.rmtree(run)
            if number >= kills:
                break
    assert torn >= kills // 4
    assert finished


@pytest.mark.exhaustive
def test_a_run_directory_is_a_job(uninterrupted, tmp_path):
    """The agent executes what train.py has only begun: here, a configuration and nothing else."""
    run = tmp_path / "job"
    run.mkdir()
    (run / "config.yaml").write_text((uninterrupted / "config.yaml").read_text())
    processes.execute(run)
    assert_same_bits(run, uninterrupted)

"""Real faults (disk, memory, signals): each gives its message, and the run can be resumed from its checkpoint."""

import contextlib
import os
import re
import resource
import signal
import subprocess
import time
from pathlib import Path

import pytest
import torch
from torchvision.models import squeezenet1_0

from fcn import errors, runs
from tests.commands import TINY, TINY_DATA, TINY_RUN, error_message, type_in, wait_for, workers_of
from tests.identical_runs import assert_identical
from tests.matrix import FAULTS, read_messages
from tests.voc_tree import shapes_as_voc, truncate

MESSAGES = read_messages(FAULTS)
SMALL = (*TINY, "trainer.sample_images=0")
LONG = ("epochs=300", "trainer.val_every=100")


def message_pattern(fault: str) -> str:
    """Return the regular expression of the message of a fault."""
    return re.sub(r"<[\w ]+>", ".+", re.escape(MESSAGES[fault]).replace(r"\ ", " "))


def assert_message(fault: str, err: str) -> None:
    """Fail unless standard error is the one line of the fault."""
    (line,) = err.splitlines()
    assert re.fullmatch(message_pattern(fault), line), line


@pytest.fixture
def train_command(monkeypatch, capsys, tmp_path, shapes_root):
    """Run a small training in this process; its status and standard error."""
    monkeypatch.chdir(tmp_path)

    def run(*overrides):
        status, _, err = type_in(monkeypatch, capsys, *SMALL, f"data.root={shapes_root}", "trainer=cpu", *overrides)
        return status, err

    return run


def test_file_too_large_is_named_and_leaves_no_partial_file(train_command, tmp_path):
    """Files are limited to 2 MB: only checkpoints are larger."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * 10**6, before[1]))
    try:
        status, err = train_command("name=full", "epochs=1")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert status == 1
    (line,) = err.splitlines()
    (run,) = (tmp_path / "outputs" / "full").iterdir()
    run = run.relative_to(tmp_path)
    assert line.startswith(f"error: {run}/checkpoints/best.ckpt: File too large; ")
    assert line.endswith(f"; then resume={run} starts from the beginning, since nothing was saved")
    assert not list((tmp_path / run / "checkpoints").iterdir())
    assert "Traceback" in (tmp_path / run / runs.LOG).read_text()
    # Without a checkpoint the summary has no metrics; otherwise resume would report the checkpoint as missing.
    summary = runs.read_summary(tmp_path / run)
    assert (summary["status"], summary["metrics"], summary["best"]) == ("failed", {}, {})


def test_out_of_memory_is_one_line(train_command):
    status, err = train_command("name=large", "data.crop_size=[131072,131072]", "epochs=1")
    assert status == 1
    assert_message("memory", err)


@pytest.mark.slow
def test_infinite_weights_are_not_saved(train_command, tmp_path):
    """The weights become infinite in the only step of the run, whose loss is still finite."""
    status, err = train_command("name=huge", "epochs=1", "data.shapes.num_train=8", "lr=1e39", "schedule=constant")
    assert status == 1
    assert_message("weights not finite", err)
    assert not list(tmp_path.rglob("*.ckpt"))


def test_weights_file_with_nan_is_refused(train_command, tmp_path):
    state = squeezenet1_0(num_classes=1000).state_dict()
    state["features.3.squeeze.bias"][1] = torch.nan
    torch.save(state, tmp_path / "broken.pth")
    status, err = train_command("backbone.weights=broken.pth")
    assert status == 1
    assert_message("weights file damaged", err)
    assert "features.3.squeeze.bias" in err


@pytest.fixture
def disk(tmp_path):
    """Mount a tmpfs at outputs/, whose size can be changed; skip the test without the right to mount."""
    folder = tmp_path / "outputs"
    folder.mkdir()

    def mount(*options: str) -> None:
        done = subprocess.run(["mount", *options, str(folder)], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"needs the right to mount: {done.stderr}")

    mount("-t", "tmpfs", "-o", "size=200m", "tmpfs")
    yield lambda options: mount("-o", f"remount,{options}")
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.slow
def test_disk_full_during_a_checkpoint_keeps_the_previous_one(train_command, disk, tmp_path, monkeypatch, capsys):
    """The disk has room for one checkpoint only."""
    disk("size=15m")
    status, err = train_command("name=full", "epochs=3")
    assert status == 1
    assert_message("disk full: checkpoint", err)
    (run,) = (tmp_path / "outputs" / "full").iterdir()
    assert torch.load(run / runs.LAST, weights_only=True)["global_step"] == 2
    assert not list(run.rglob("*.tmp"))
    disk("size=200m")
    status, _, err = type_in(monkeypatch, capsys, f"resume={run}")
    assert status == 0, err
    assert train_command("name=alone", "epochs=3") == (0, "")
    (alone,) = (tmp_path / "outputs" / "alone").iterdir()
    assert_identical(run, alone)


@pytest.mark.exhaustive
@pytest.mark.parametrize(("size", "fault"), [("4k", "first files"), ("200k", "first checkpoint")])
def test_disk_full_elsewhere_is_one_line(command, disk, size, fault):
    disk(f"size={size}")
    done = command(*TINY, f"data.root={command.data}", "name=full")
    assert done.returncode == 1
    assert_message(f"disk full: {fault}", done.stderr)
    disk("size=200m")
    if fault == "first checkpoint":  # which fails after the event files, a failure that ends no training
        assert re.search(message_pattern("disk full: TensorBoard"), done.stdout)
        again = command(f"resume={command.run_of('full')}")
    else:
        again = command(*SMALL, "name=full")
    assert again.returncode == 0, again.stderr


@pytest.mark.exhaustive
def test_disk_full_for_the_cache_is_a_warning(command, disk):
    disk("size=100k")
    done = command(*SMALL, f"data.root={command.data}", "data.cache_dir=outputs", "epochs=1", "hydra.run.dir=elsewhere")
    assert done.returncode == 0, done.stderr
    assert re.search(message_pattern("disk full: cache"), done.stdout)
    assert not list((command.folder / "outputs").iterdir())


@pytest.mark.exhaustive
def test_read_only_outputs_are_one_line(command, disk):
    disk("ro")
    done = command(*SMALL, f"data.root={command.data}", "name=run")
    assert done.returncode == 1
    assert_message("output read-only", done.stderr)


def started(command, *overrides: str, name: str):
    """Start a long run and wait for its first checkpoint; the process and the run directory."""
    shapes = [f"data.root={command.data}", *TINY_DATA]
    small = [override for override in SMALL if override not in shapes]
    data = [] if "data=voc" in overrides else shapes
    process = command.start(*small, *LONG, *data, f"name={name}", *overrides)
    folder = command.folder / "outputs" / name
    wait_for(lambda: any((run / runs.LAST).exists() for run in folder.glob("*")), process=process)
    return process, command.run_of(name)


def rank_of(process: int) -> int:
    """Return the rank of a process from its environment."""
    entries = Path(f"/proc/{process}/environ").read_text().split("\0")
    return next(int(entry.removeprefix("RANK=")) for entry in entries if entry.startswith("RANK="))


def ranks(run: Path) -> dict[int, int]:
    """Return the process id of every rank."""
    processes = {}
    for process in workers_of(run):
        with contextlib.suppress(OSError, StopIteration):
            processes.setdefault(rank_of(process), process)
    return processes


def assert_resumes(command, run: Path) -> None:
    """Resume a run for one more epoch and check that it starts at its last checkpoint."""
    checkpoint = torch.load(run / runs.LAST, weights_only=True)
    step, epoch = checkpoint["global_step"], checkpoint["epoch"]
    done = command(f"resume={run}", f"epochs={epoch + 2}", "allow=[epochs]")
    assert done.returncode == 0, done.stderr
    assert torch.load(run / runs.LAST, weights_only=True)["global_step"] > step


@pytest.mark.slow
def test_stopped_rank_is_named_and_the_run_ends(command):
    process, run = started(command, "trainer=ddp_cpu", "trainer.timeout_minutes=0.05", name="stopped")
    os.kill(ranks(run)[1], signal.SIGSTOP)
    begun = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert time.monotonic() - begun < 30
    assert_message("rank stopped", err)
    assert runs.read_summary(run)["status"] == "failed"
    wait_for(lambda: not workers_of(run), seconds=10)


@pytest.mark.exhaustive
@pytest.mark.parametrize("workers", [0, 1])
def test_rank_that_waits_for_its_data_is_named(command, workers):
    """After the first epoch a named pipe replaces an image; opening it blocks."""
    tree, data = shapes_as_voc(command.folder / "voc")
    os.mkfifo(pipe := command.folder / "pipe")
    options = [*data, f"data.num_workers={workers}", "trainer=ddp_cpu", "trainer.timeout_minutes=0.05"]
    process, run = started(command, *options, name="stalled")
    pipe.replace(next((tree / "JPEGImages").glob("train_00003.jpg")))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert_message("rank waits for its data", err)
    wait_for(lambda: not workers_of(run), seconds=10)


@pytest.mark.exhaustive
def test_killed_rank_is_named(command):
    process, run = started(command, "trainer=ddp_cpu", name="killed")
    os.kill(ranks(run)[1], signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert_message("rank killed", err)
    assert not workers_of(run)
    assert_resumes(command, run)


@pytest.mark.exhaustive
def test_killed_loader_process_is_named(fresh_command):
    process, run = started(fresh_command, "trainer=cpu", "data.num_workers=1", name="loader")
    (loader,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(loader), signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert_message("loader process killed", err)
    assert_resumes(fresh_command, run)


def test_memory_error_on_one_image_suggests_tiles():
    tiles = {"inference": "whole", "tile_size": [320, 480]}  # as scripts/predict.py and evaluate.py have them
    memory_error = MemoryError("Unable to allocate 9 GiB")
    assert_message("memory, on one image", f"error: {errors.describe_failure(memory_error, tiles)}")


@pytest.mark.exhaustive
def test_error_in_a_loader_process_ends_the_command(command):
    """multiprocessing ends and joins the other loader processes."""
    tree, data = shapes_as_voc(command.folder / "voc")
    name = (tree / "ImageSets/Segmentation/val.txt").read_text().split()[1]
    truncate(tree / f"SegmentationClass/{name}.png")
    done = command(*TINY_RUN, *data, "epochs=1", "name=broken", "trainer=cpu", "data.num_workers=1")
    assert done.returncode == 1
    assert f"{name}.png must be a readable image" in error_message(done.stderr)

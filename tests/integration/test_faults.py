"""Real faults (disk, memory, signals): the message, and that the run can be resumed from what was saved."""

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
from tests.commands import TINY, type_in, wait_for, workers_of
from tests.identical_runs import assert_identical
from tests.matrix import FAULTS, read_messages
from tests.voc_tree import shapes_as_voc

MESSAGES = read_messages(FAULTS)
SMALL = (*TINY, "backbone=squeezenet1_0", "trainer.sample_images=0")
LONG = ("epochs=300", "trainer.val_every=100")


def message_pattern(fault: str) -> str:
    """Return the regular expression of the message of a fault."""
    return re.sub(r"<[\w ]+>", ".+", re.escape(MESSAGES[fault]).replace(r"\ ", " "))


def assert_message(fault: str, err: str) -> None:
    (line,) = err.splitlines()
    assert re.fullmatch(message_pattern(fault), line), line


@pytest.fixture
def typed(monkeypatch, capsys, tmp_path, shapes_root):
    """Status and standard error of a small training typed in, in this process."""
    monkeypatch.chdir(tmp_path)

    def train(*overrides):
        status, _, err = type_in(monkeypatch, capsys, *SMALL, f"data.root={shapes_root}", "trainer=cpu", *overrides)
        return status, err

    return train


def test_a_file_that_cannot_be_written_whole_is_named_and_leaves_no_half(typed, tmp_path):
    """Files may grow to 2 MB: a checkpoint needs more, everything else less."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * 10**6, before[1]))
    try:
        status, err = typed("name=full", "epochs=1")
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
    # Nothing is in the summary that is in no checkpoint: else the run would be taken for one whose checkpoint is lost.
    summary = runs.read_summary(tmp_path / run)
    assert (summary["status"], summary["metrics"], summary["best"]) == ("failed", {}, {})


def test_memory_that_is_not_there_is_one_line(typed):
    status, err = typed("name=large", "data.crop_size=[131072,131072]", "epochs=1")
    assert status == 1
    assert_message("memory", err)


@pytest.mark.slow
def test_weights_that_an_update_makes_infinite_are_not_saved(typed, tmp_path):
    """The only step of the run, whose loss is that of the weights before it."""
    status, err = typed("name=huge", "epochs=1", "data.shapes.num_train=8", "lr=1e39", "schedule=constant")
    assert status == 1
    assert_message("weights not finite", err)
    assert not list(tmp_path.rglob("*.ckpt"))


def test_a_weights_file_with_a_value_that_is_none_is_refused(typed, tmp_path):
    state = squeezenet1_0(num_classes=1000).state_dict()
    state["features.3.squeeze.bias"][1] = torch.nan
    torch.save(state, tmp_path / "broken.pth")
    status, err = typed("backbone.weights=broken.pth")
    assert status == 1
    assert_message("weights file damaged", err)
    assert "features.3.squeeze.bias" in err


def test_a_file_in_place_of_a_folder_is_one_line(typed, tmp_path):
    (tmp_path / "outputs").touch()
    status, err = typed("name=run")
    assert status == 1
    assert_message("output is a file", err)


@pytest.fixture
def disk(tmp_path):
    """A file system of its own for outputs/, whose size can be set; skipped where none can be mounted."""
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
def test_a_disk_that_fills_during_a_checkpoint_loses_nothing(typed, disk, tmp_path, monkeypatch, capsys):
    """Room for one checkpoint and no second one."""
    disk("size=15m")
    status, err = typed("name=full", "epochs=3")
    assert status == 1
    assert_message("disk full: checkpoint", err)
    (run,) = (tmp_path / "outputs" / "full").iterdir()
    assert torch.load(run / runs.LAST, weights_only=True)["global_step"] == 2
    assert not list(run.rglob("*.tmp"))
    disk("size=200m")
    status, _, err = type_in(monkeypatch, capsys, f"resume={run}")
    assert status == 0, err
    assert typed("name=alone", "epochs=3") == (0, "")
    (alone,) = (tmp_path / "outputs" / "alone").iterdir()
    assert_identical(run, alone)


@pytest.mark.exhaustive
@pytest.mark.parametrize(("size", "fault"), [("4k", "first files"), ("200k", "TensorBoard")])
def test_a_disk_that_fills_elsewhere_is_one_line(command, disk, size, fault):
    disk(f"size={size}")
    done = command(*TINY, "backbone=squeezenet1_0", f"data.root={command.data}", "name=full")
    assert done.returncode == 1
    assert_message(f"disk full: {fault}", done.stderr)
    disk("size=200m")
    again = command(f"resume={command.run_of('full')}") if fault == "TensorBoard" else command(*SMALL, "name=full")
    assert again.returncode == 0, again.stderr


@pytest.mark.exhaustive
def test_a_disk_that_is_full_for_the_cache_only_makes_the_run_slower(command, disk):
    disk("size=100k")
    done = command(*SMALL, f"data.root={command.data}", "data.cache_dir=outputs", "epochs=1", "hydra.run.dir=elsewhere")
    assert done.returncode == 0, done.stderr
    assert re.search(message_pattern("disk full: cache"), done.stdout)
    assert not list((command.folder / "outputs").iterdir())


@pytest.mark.exhaustive
def test_outputs_that_are_read_only_are_one_line(command, disk):
    disk("ro")
    done = command(*SMALL, f"data.root={command.data}", "name=run")
    assert done.returncode == 1
    assert_message("output read-only", done.stderr)


def started(command, *overrides: str, name: str):
    """A long run that has saved."""
    process = command.start(*SMALL, *LONG, f"data.root={command.data}", f"name={name}", *overrides)
    folder = command.folder / "outputs" / name
    wait_for(lambda: any((run / runs.LAST).exists() for run in folder.glob("*")), process=process)
    return process, command.run_of(name)


def rank_of(process: int) -> int:
    entries = Path(f"/proc/{process}/environ").read_text().split("\0")
    return next(int(entry.removeprefix("RANK=")) for entry in entries if entry.startswith("RANK="))


def ranks(run: Path) -> dict[int, int]:
    """Process of every rank."""
    found = {}
    for process in workers_of(run):
        with contextlib.suppress(OSError, StopIteration):
            found.setdefault(rank_of(process), process)
    return found


def goes_on(command, run: Path) -> None:
    """Resumed with one more epoch than it had, from its last checkpoint."""
    checkpoint = torch.load(run / runs.LAST, weights_only=True)
    step, epoch = checkpoint["global_step"], checkpoint["epoch"]
    done = command(f"resume={run}", f"epochs={epoch + 2}", "allow=[epochs]")
    assert done.returncode == 0, done.stderr
    assert torch.load(run / runs.LAST, weights_only=True)["global_step"] > step


@pytest.mark.slow
def test_a_rank_that_is_stopped_is_named_and_ends(command):
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
def test_a_rank_that_waits_for_its_data_is_named(command, workers):
    """A named pipe takes the place of an image after the first epoch: whoever opens it waits for ever."""
    tree, data = shapes_as_voc(command.folder / "voc")
    os.mkfifo(pipe := command.folder / "pipe")
    options = [*data, f"data.num_workers={workers}", "trainer=ddp_cpu", "trainer.timeout_minutes=0.05"]
    process, run = started(command, *options, name="hangs")
    pipe.replace(next((tree / "JPEGImages").glob("train_00003.jpg")))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert_message("rank waits for its data", err)
    wait_for(lambda: not workers_of(run), seconds=10)


@pytest.mark.exhaustive
def test_a_rank_that_is_killed_is_named(command):
    process, run = started(command, "trainer=ddp_cpu", name="killed")
    os.kill(ranks(run)[1], signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert_message("rank killed", err)
    assert not workers_of(run)
    goes_on(command, run)


@pytest.mark.exhaustive
def test_a_loader_process_that_is_killed_is_told_of(fresh_command):
    process, run = started(fresh_command, "trainer=cpu", "data.num_workers=1", name="loader")
    (loader,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(loader), signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert_message("loader process killed", err)
    goes_on(fresh_command, run)


def test_memory_error_on_one_image_suggests_tiles():
    tiles = {"inference": "whole", "tile_size": [320, 480]}  # as scripts/predict.py and evaluate.py have them
    memory_error = MemoryError("Unable to allocate 9 GiB")
    assert_message("memory, on one image", f"error: {errors.describe_failure(memory_error, tiles)}")

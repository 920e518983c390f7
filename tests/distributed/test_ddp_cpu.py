"""`trainer=ddp_cpu`: two gloo processes are one run."""

import json
import os
import signal
import time

import pytest
import torch

from fcn import runs
from tests.commands import TINY, interrupt, wait_for, workers_of
from tests.voc_tree import shapes_as_voc, truncate


@pytest.fixture(scope="module")
def pair(module_command):
    """A finished run of two processes and what the command printed."""
    done = module_command(*TINY, f"data.root={module_command.data}", "name=pair", "trainer=ddp_cpu")
    assert done.returncode == 0, done.stderr + done.stdout
    return module_command.run_of("pair"), done


@pytest.mark.slow
def test_two_processes_are_one_run(pair, module_command):
    run, done = pair
    assert [path.name for path in (module_command.folder / "outputs").iterdir()] == ["pair"]
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert summary["world_size"] == 2
    assert " on 2 x CPU " in done.stdout.splitlines()[-1]
    assert len(list(run.glob("events.*"))) == 1
    # 16 images in global batches of 8: two steps an epoch, whatever the number of processes.
    assert torch.load(run / runs.LAST, weights_only=True)["global_step"] == 4
    assert done.stderr == ""


@pytest.mark.exhaustive
def test_a_failing_rank_gives_one_line_with_its_root_cause(command):
    """Rank 1 alone reads the second validation image, and that one is broken, which a cache would find before."""
    tree, data = shapes_as_voc(command.folder / "voc")
    broken = (tree / "ImageSets/Segmentation/val.txt").read_text().split()[1]
    truncate(tree / f"JPEGImages/{broken}.jpg")
    done = command(*TINY, *data, "name=broken", "trainer=ddp_cpu")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: rank 1 failed: DataError: ")
    assert f"{broken}.jpg" in line
    run = command.run_of("broken")
    assert json.loads((run / "summary.json").read_text())["status"] == "failed"
    assert not workers_of(run)


LONG = ("epochs=200", "trainer.val_every=200", "trainer=ddp_cpu")


def started(command, name):
    """A long run of two processes that has made its first steps."""
    process = command.start(*TINY, *LONG, f"data.root={command.data}", f"name={name}")
    folder = command.folder / "outputs" / name
    wait_for(lambda: any((run / runs.LAST).exists() for run in folder.glob("*")), process=process)
    run = command.run_of(name)
    assert len(workers_of(run)) >= 2
    return process, run


@pytest.mark.exhaustive
def test_ctrl_c_leaves_a_usable_run_and_no_orphan(command):
    process, run = started(command, "stopped")
    done = interrupt(process, signal.SIGINT)
    assert done.returncode == 130, done.stderr
    assert not workers_of(run)
    assert json.loads((run / "summary.json").read_text())["status"] == "interrupted"
    stopped_at = torch.load(run / runs.LAST, weights_only=True)["global_step"]
    assert f"interrupted at step {stopped_at}; go on with resume=" in done.stdout


@pytest.mark.exhaustive
def test_a_signal_to_one_rank_stops_all_of_them(command):
    """As a cluster does that takes a machine back: the ranks agree, save, and the run is interrupted, not failed."""
    process, run = started(command, "signalled")
    os.kill(max(workers_of(run)), signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode == 143
    assert not workers_of(run)
    assert json.loads((run / "summary.json").read_text())["status"] == "interrupted"


@pytest.mark.exhaustive
def test_killing_the_command_leaves_no_orphan(command):
    process, run = started(command, "killed")
    process.kill()
    process.wait()
    wait_for(lambda: not workers_of(run), seconds=60)
    time.sleep(0.2)
    assert torch.load(run / runs.LAST, weights_only=True)["global_step"] > 0


@pytest.mark.parametrize(
    ("number", "status"),
    [
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow),
        pytest.param(signal.SIGKILL, -9, marks=pytest.mark.exhaustive),
    ],
)
def test_resume_is_exact_with_two_processes(command, number, status):
    """Stopped somewhere and resumed, against the same run left alone."""
    options = ("data.shapes.num_train=16", "batch_size=4", "epochs=3", "trainer=ddp_cpu", "trainer.checkpoint_steps=1")
    alone = command.train(*options, name="alone")
    process = command.start(*TINY, *options, f"data.root={command.data}", "name=resumed")
    folder = command.folder / "outputs" / "resumed"
    wait_for(lambda: any((run / runs.PREVIOUS).exists() for run in folder.glob("*")), process=process)
    done = interrupt(process, number)
    assert done.returncode == status, done.stderr
    run = command.run_of("resumed")
    wait_for(lambda: not workers_of(run), seconds=60)
    stopped_at = torch.load(run / runs.LAST, weights_only=True)["global_step"]
    assert 0 < stopped_at < 12
    resumed = command(f"resume={run}")
    assert resumed.returncode == 0, resumed.stderr
    ours, theirs = (torch.load(path / runs.LAST, weights_only=True) for path in (run, alone))
    for name, weight in theirs["state_dict"].items():
        assert torch.equal(ours["state_dict"][name], weight), name
    metrics = [json.loads((path / "summary.json").read_text())["metrics"] for path in (run, alone)]
    assert metrics[0] == metrics[1]
    rows = [
        [(row["epoch"], row["step"], row["train/loss"]) for row in runs.read_metrics(path)] for path in (run, alone)
    ]
    assert rows[0] == rows[1]

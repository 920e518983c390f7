"""`trainer=ddp_cpu`: two gloo processes execute one run."""

import json
import os
import re
import signal
import time

import pytest
import torch

from fcn import runs
from tests.commands import TINY, TINY_RUN, error_message, interrupt, wait_for, workers_of
from tests.identical_runs import assert_identical
from tests.voc_tree import shapes_as_voc, truncate


@pytest.fixture(scope="module")
def pair(module_command):
    """Directory of a finished run of two processes, and the completed command."""
    done = module_command(*TINY, f"data.root={module_command.data}", "name=pair", "trainer=ddp_cpu")
    assert done.returncode == 0, done.stderr + done.stdout
    return module_command.run_of("pair"), done


@pytest.mark.slow
def test_two_processes_write_one_run(pair, module_command):
    run, done = pair
    assert [path.name for path in (module_command.folder / "outputs").iterdir()] == ["pair"]
    summary = json.loads((run / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert summary["world_size"] == 2
    assert " on 2 x CPU " in done.stdout.splitlines()[-1]
    assert len(list(run.glob("events.*"))) == 1
    # 16 images in global batches of 8: two steps per epoch for any number of processes.
    assert torch.load(run / runs.LAST, weights_only=True)["global_step"] == 4
    assert done.stderr == ""


@pytest.mark.exhaustive
def test_failing_rank_is_reported_in_one_line(command):
    """Only rank 1 reads the second validation image, which is truncated; a cache would detect it before."""
    tree, data = shapes_as_voc(command.folder / "voc")
    broken = (tree / "ImageSets/Segmentation/val.txt").read_text().split()[1]
    truncate(tree / f"JPEGImages/{broken}.jpg")
    done = command(*TINY_RUN, *data, "name=broken", "trainer=ddp_cpu")
    assert done.returncode == 1
    message = error_message(done.stderr)
    assert message.startswith("rank 1 failed: DataError: ")
    assert f"{broken}.jpg" in message
    run = command.run_of("broken")
    assert json.loads((run / "summary.json").read_text())["status"] == "failed"
    assert not workers_of(run)


LONG = ("epochs=200", "trainer.val_every=200", "trainer=ddp_cpu")


def started(command, name):
    """Start a long run of two processes and wait for its first checkpoint."""
    process = command.start(*TINY, *LONG, f"data.root={command.data}", f"name={name}")
    folder = command.folder / "outputs" / name
    wait_for(lambda: any((run / runs.LAST).exists() for run in folder.glob("*")), process=process)
    run = command.run_of(name)
    assert len(workers_of(run)) >= 2
    return process, run


@pytest.mark.exhaustive
def test_ctrl_c_saves_and_leaves_no_orphan(command):
    process, run = started(command, "stopped")
    done = interrupt(process, signal.SIGINT)
    assert done.returncode == 130, done.stderr
    assert not workers_of(run)
    assert json.loads((run / "summary.json").read_text())["status"] == "interrupted"
    stopped_at = torch.load(run / runs.LAST, weights_only=True)["global_step"]
    assert f"interrupted at step {stopped_at}; continue with resume=" in done.stdout


@pytest.mark.exhaustive
def test_signal_to_one_rank_stops_all_ranks(command):
    """A cluster preempts a machine: the ranks agree on a step and save; the run is interrupted, not failed."""
    process, run = started(command, "signalled")
    os.kill(max(workers_of(run)), signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode == 143
    assert not workers_of(run)
    assert json.loads((run / "summary.json").read_text())["status"] == "interrupted"


@pytest.mark.exhaustive
def test_killed_command_leaves_no_orphan(command):
    process, run = started(command, "killed")
    process.kill()
    process.wait()
    wait_for(lambda: not workers_of(run), seconds=60)
    time.sleep(0.2)
    assert torch.load(run / runs.LAST, weights_only=True)["global_step"] > 0


STOPPED_EARLY = (
    "callbacks=[ema,early_stopping]", "callbacks.early_stopping.patience=2", "callbacks.early_stopping.min_delta=1"
)  # fmt: skip
"""Stopped after the third epoch, because no validation improves on the first by 1."""


@pytest.mark.slow
def test_average_and_early_stopping_of_two_processes_equal_those_of_one(command):
    options = (
        "data.shapes.num_train=16", "batch_size=4", "epochs=5", "backbone=squeezenet1_0", "data.crop_size=[32,32]",
        "optim.clip_norm=1", "optim=sgd", "lr=0.01", *STOPPED_EARLY,
    )  # fmt: skip
    one = command.train(*options, "trainer=cpu", "trainer.accumulate=2", name="one")
    two = command.train(*options, "trainer=ddp_cpu", name="two")
    ours, theirs = (torch.load(run / runs.LAST, weights_only=True) for run in (one, two))
    assert ours["global_step"] == theirs["global_step"] == 12
    for state in ("state_dict", "current_model_state"):
        for name, weight in ours[state].items():
            torch.testing.assert_close(theirs[state][name], weight, rtol=1e-3, atol=1e-5)
    differences = [(ours["state_dict"][name] - ours["current_model_state"][name]).norm() for name in ours["state_dict"]]
    assert max(differences) > 1e-3
    reasons = [runs.read_summary(run)["stopped_early"] for run in (one, two)]
    assert all("has not improved on" in reason and "in 2 validations" in reason for reason in reasons)


@pytest.mark.parametrize(
    ("number", "status", "callbacks"),
    [
        pytest.param(signal.SIGTERM, 143, (), marks=pytest.mark.slow),
        pytest.param(signal.SIGTERM, 143, STOPPED_EARLY, marks=pytest.mark.exhaustive),
        pytest.param(signal.SIGKILL, -9, STOPPED_EARLY, marks=pytest.mark.exhaustive),
    ],
)
def test_resume_is_exact_with_two_processes(command, number, status, callbacks):
    """Compare a run that was stopped and resumed with one that was not."""
    epochs = "epochs=5" if callbacks else "epochs=3"  # 12 steps
    options = (
        "data.shapes.num_train=16", "batch_size=4", epochs, "trainer=ddp_cpu", "trainer.checkpoint_steps=1",
        "backbone=resnet18", *callbacks,  # with statistics of batch norm
    )  # fmt: skip
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
    assert_identical(run, alone)


@pytest.mark.exhaustive
@pytest.mark.parametrize("accumulate", ["1", "2"])
def test_activation_checkpointing_with_two_processes_changes_no_bit(command, accumulate):
    options = ("trainer=ddp_cpu", "backbone=resnet18", f"trainer.accumulate={accumulate}")
    plain = command.train(*options, name="plain")
    saving = command.train(*options, "trainer.activation_checkpointing=true", name="saving")
    assert_identical(saving, plain)


LIMITED = """
import os
import torch
from fcn.models.network import SegmentationNetwork

all_logits = SegmentationNetwork.all_logits

def out_of_memory(gradient):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB.")

def limited(network, images):
    logits = all_logits(network, images)
    if os.environ.get("RANK") == "1" and logits[0].requires_grad and len(images) > 2:
        logits[0].register_hook(out_of_memory)
    return logits

SegmentationNetwork.all_logits = limited
"""
"""A module of components, which every process imports: rank 1 has memory for two images."""


@pytest.mark.slow
def test_memory_of_one_rank_determines_the_parts_of_both(command):
    (command.folder / "limited.py").write_text(LIMITED)
    options = (*TINY, f"data.root={command.data}", "trainer=ddp_cpu", "backbone=resnet18", "callbacks=[ema]")
    for name, accumulate in (("auto", "auto"), ("two", "2")):
        arguments = (*options, f"trainer.accumulate={accumulate}", f"name={name}")
        done = command(*arguments, FCN_COMPONENTS="limited")
        assert done.returncode == 0, done.stderr
        assert ("1 x 4 images per process of a step do not fit" in done.stdout) is (name == "auto")
    assert runs.read_summary(command.run_of("auto"))["accumulate"] == 2
    assert_identical(command.run_of("auto"), command.run_of("two"))


@pytest.mark.exhaustive
def test_two_processes_train_with_the_measured_settings(command):
    run = command.train("trainer=ddp_cpu", "trainer.layout=fastest", "trainer.precision=fastest", name="fastest")
    keys = [f"trainer.{name}={runs.read_summary(run)[name]}" for name in ("layout", "precision")]
    assert_identical(run, command.train("trainer=ddp_cpu", *keys, name="named"))


@pytest.mark.exhaustive
def test_part_that_fits_no_rank_ends_the_run_in_one_line(command):
    (command.folder / "limited.py").write_text(LIMITED.replace("> 2", "> 0"))
    options = ("trainer=ddp_cpu", "trainer.accumulate=auto", "name=none")
    done = command(*TINY, f"data.root={command.data}", *options, FCN_COMPONENTS="limited")
    assert done.returncode == 1
    # Either rank may be named; only rank 1 knows the size.
    assert re.match(
        r"rank \d failed: out of (GPU )?memory.*: .*use trainer.activation_checkpointing=true",
        error_message(done.stderr),
    )
    assert not workers_of(command.run_of("none"))

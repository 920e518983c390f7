"""`trainer=ddp_cpu`: two gloo processes are one run."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from fcn import runs
from fcn.data import shapes
from fcn.task import SegmentationTask
from tests.commands import ROOT, TINY, interrupt, wait_for, workers_of


@pytest.fixture(scope="module")
def pair(module_command):
    """A finished run of two processes and what the command printed."""
    done = module_command(*TINY, f"data.root={module_command.data}", "name=pair", "trainer=ddp_cpu")
    assert done.returncode == 0, done.stderr + done.stdout
    return module_command.run_of("pair"), done


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


# What a rank runs to validate a checkpoint; in this process it is the only one.
VALIDATE = """
import sys
from pathlib import Path
import torch
from fcn import experiment
from fcn.data.module import VOCDataModule
from fcn.inference import load_task

def validate(checkpoint, out):
    task = load_task(Path(checkpoint))
    trainer = experiment.build_trainer(task.config, callbacks=[])
    data = VOCDataModule(task.config)
    data.prepare_data()
    trainer.validate(task, datamodule=data, verbose=False)
    scores = task.epoch_scores()
    if trainer.is_global_zero:
        torch.save({"confusion": task.confusion, "scores": scores}, out)

if __name__ == "__main__":
    validate(*sys.argv[1:])
"""


@pytest.mark.parametrize(
    "processes", [pytest.param(2, marks=pytest.mark.slow), pytest.param(3, marks=pytest.mark.exhaustive)]
)
def test_validation_counts_are_those_of_one_process(pair, tmp_path, processes):
    """5 validation images: shares of 3 + 2, and of 2 + 2 + 1, each counted once."""
    script = tmp_path / "validate.py"
    script.write_text(VALIDATE)
    checkpoint = make_divisible(pair[0] / runs.LAST, tmp_path / "run.ckpt", batch_size=6)
    namespace: dict = {"__name__": "validate"}
    exec(VALIDATE, namespace)
    namespace["validate"](checkpoint, tmp_path / "alone.pt")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",
            "--standalone",  # a free port
            f"--nproc-per-node={processes}",
            script,
            checkpoint,
            tmp_path / "together.pt",
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    alone, together = (torch.load(tmp_path / f"{name}.pt", weights_only=True) for name in ("alone", "together"))
    assert torch.equal(alone["confusion"], together["confusion"])
    assert alone["confusion"].sum() > 5 * 96 * 96 * 0.8
    for name, value in alone["scores"].items():
        assert together["scores"][name] == pytest.approx(value, rel=1e-12, nan_ok=True), name


def make_divisible(checkpoint: Path, target: Path, *, batch_size: int) -> Path:
    """The same weights under a batch size that 1, 2 and 3 processes divide."""
    content = torch.load(checkpoint, weights_only=True)
    content["config"]["batch_size"] = batch_size
    torch.save(content, target)
    return target


@pytest.mark.parametrize(
    "reduction",
    [
        pytest.param("pixel_mean", marks=pytest.mark.slow),
        pytest.param("image_sum", marks=pytest.mark.exhaustive),
    ],
)
def test_two_processes_make_the_steps_of_one(command, reduction):
    """SqueezeNet has no batch norm: the weights are those of one process, up to rounding.

    The processes have unequal numbers of void pixels, so that an average of their means would be another step.
    """
    lr = {"pixel_mean": 1e-2, "image_sum": 1e-2 / 8}[reduction]
    options = (
        "backbone=squeezenet1_0",
        "optim=sgd",
        f"lr={lr}",
        f"loss={reduction}",
        "epochs=1",
        "data.augmentation.scale=[0.4,1.0]",
    )
    runs_of = {name: command.train(*options, f"trainer={name}", name=name) for name in ("cpu", "ddp_cpu")}
    alone, together = (torch.load(run / runs.LAST, weights_only=True)["state_dict"] for run in runs_of.values())
    config = runs.load_config(runs_of["cpu"])
    pl.seed_everything(config.seed, verbose=False)
    start = SegmentationTask(config).state_dict()
    for name, weight in alone.items():
        # Relative to the way that the weights have gone: half a step or twice a step would be a difference of order 1.
        difference, way = (together[name] - weight).norm(), (weight - start[name]).norm()
        assert difference <= 5e-3 * way, (name, float(difference), float(way))
        assert way > 0 or "upscore" in name, name
    losses = [json.loads((run / "summary.json").read_text())["metrics"]["train/loss"] for run in runs_of.values()]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    norms = [float(runs.read_metrics(run)[-1]["gradient_norm"]) for run in runs_of.values()]
    assert norms[0] == pytest.approx(norms[1], rel=1e-2)


@pytest.mark.exhaustive
def test_a_failing_rank_gives_one_line_with_its_root_cause(command):
    """Rank 1 alone reads the second validation image, and that one is broken, which a cache would find before."""
    root = command.folder / "voc"
    drawn = shapes.ensure_shapes(root, num_train=16, num_val=5, seed=0)
    broken = (drawn / "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt").read_text().split()[1]
    image = drawn / f"VOCdevkit/VOC2012/JPEGImages/{broken}.jpg"
    image.write_bytes(image.read_bytes()[:500])
    classes = f"data.classes=[{','.join(shapes.CLASSES)}]"
    done = command(
        *TINY, "data=voc", f"data.root={drawn}", classes, "data.cache=false", "name=broken", "trainer=ddp_cpu"
    )
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


@pytest.mark.slow
def test_resume_is_exact_with_two_processes(command):
    """Stopped somewhere by SIGTERM and resumed, against the same run left alone."""
    options = ("data.shapes.num_train=16", "batch_size=4", "epochs=3", "trainer=ddp_cpu")
    alone = command.train(*options, name="alone")
    process = command.start(*TINY, *options, f"data.root={command.data}", "name=resumed")
    folder = command.folder / "outputs" / "resumed"
    wait_for(lambda: any((run / runs.LAST).exists() for run in folder.glob("*")), process=process)
    time.sleep(0.3)  # into the second epoch
    done = interrupt(process, signal.SIGTERM)
    assert done.returncode == 143, done.stderr
    run = command.run_of("resumed")
    resumed = command(f"resume={run}")
    assert resumed.returncode == 0, resumed.stderr
    ours, theirs = (torch.load(path / runs.LAST, weights_only=True) for path in (run, alone))
    for name, weight in theirs["state_dict"].items():
        assert torch.equal(ours["state_dict"][name], weight), name
    metrics = [json.loads((path / "summary.json").read_text())["metrics"] for path in (run, alone)]
    assert metrics[0] == metrics[1]

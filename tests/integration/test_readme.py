"""The commands of the README run; `.ci/run` runs the first two of them unchanged."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from fcn import runs
from fcn.data import shapes
from tests.commands import ROOT, TINY_DATA, TINY_RUN, type_in
from tests.pages import README, TUTORIAL, commands, python_blocks

# A few steps on one thread, without downloads.
SMALL = (
    *TINY_DATA, *TINY_RUN,
    "epochs=1", "trainer=cpu", "trainer.sample_images=0", "backbone.weights=none", "data.num_workers=0",
)  # fmt: skip

HERE = {  # run below, each with SMALL
    "python train.py model.init=xavier lr=0.01",
    "python train.py experiment=d2l data.root=data data.download=true",
    "python train.py experiment=voc_small data.root=<folder that holds VOCdevkit>",
    "python train.py backbone=resnet50 optim=adamw schedule=poly",
    "python train.py backbone=timm backbone.name=convnextv2_tiny model=fcn8s",
    "python train.py model=fcn8s",
}
ELSEWHERE = {
    "pip install -e . && python train.py": ".ci/run",
    'pip install -e ".[dev]" && pytest': ".ci/run",
    'pip install -e ".[tune,export]"': ".ci/run, as a part of dev",
    "python3 -m venv .venv && source .venv/bin/activate": ".ci/run",
    "python train.py data=voc data.root=<folder that holds VOCdevkit>": "test_own_data.py, with two keys more",
    "python train.py experiment=fcn_r50_d8 data.root=<folder that holds VOCdevkit>": "test_published_recipes.py",
    "python train.py experiment=fcn_dinov2 data.root=<folder that holds VOCdevkit>": "test_published_recipes.py",
    "python train.py -m model.init=bilinear,xavier lr=0.001,0.01": "test_sweep.py",
    "python train.py -m data.fold=0,1,2,3,4": "test_cross_validation.py",
    "python scripts/evaluate.py 'run=[<run>,<another run>]' output=ensemble": "unit/cli/test_evaluate.py",
    "python train.py model=smp model.name=unet backbone.name=resnet34": "test_pages.py",
    "tensorboard --logdir outputs": "test_sweep.py",
    "python train.py 'logger=[tensorboard,wandb]' logger.wandb.mode=offline": "test_loggers.py",
    "python train.py --help": "test_command_line.py",
    "python train.py experiment=d2l --cfg job": "below",
    "python train.py resume=outputs/<name>/<time>": "test_exactness.py",
    "python train.py rerun=outputs/<name>/<time>": "test_rerun.py",
    "python scripts/evaluate.py run=outputs/<name>/<time> split=val": "unit/cli/test_evaluate.py",
    "python scripts/predict.py run=outputs/<name>/<time> input=photos": "unit/cli/test_predict.py",
    "python scripts/compare.py outputs/<name>": "unit/cli/test_compare.py",
    "python scripts/tune.py search=default trials=30": "unit/cli/test_tune.py",
    "python scripts/export.py run=outputs/<name>/<time> format=onnx": "unit/inference/test_export.py",
}


@pytest.fixture
def folder(tmp_path, shapes_root, monkeypatch) -> Path:
    """Working directory in which `data` is a VOC tree: the synthetic dataset, whose classes are VOC's first six."""
    synthetic = shapes.ensure_shapes(shapes_root / "shapes", num_train=16, num_val=8, seed=0)
    (tmp_path / "data").symlink_to(synthetic)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_command_of_the_readme_is_tested():
    assert commands(README) == HERE | set(ELSEWHERE)


LARGE = {line for line in HERE if "resnet50" in line or "convnextv2_tiny" in line}


@pytest.mark.parametrize(
    "line", [pytest.param(line, marks=pytest.mark.slow if line in LARGE else ()) for line in sorted(HERE)]
)
def test_training_command_of_the_readme(line, folder, monkeypatch, capsys):
    arguments = shlex.split(line.replace("<folder that holds VOCdevkit>", "data"))[2:]
    absent = ("lr=", "data.shapes.") if "data.root" in line else ("lr=",)  # keys of the synthetic dataset
    small = [option for option in SMALL if not option.startswith(absent)]
    status, out, err = type_in(monkeypatch, capsys, *arguments, *small)
    assert status == 0, err
    *_, scores, speed = out.splitlines()
    assert "val mIoU" in scores
    assert " images/s on " in speed
    statuses = [json.loads(path.read_text())["status"] for path in folder.rglob("outputs/**/summary.json")]
    assert statuses == ["finished"]


def test_composed_configuration_of_d2l_is_printed(folder, monkeypatch, capsys):
    status, out, _ = type_in(monkeypatch, capsys, "experiment=d2l", "--cfg", "job")
    assert status == 0
    assert "protocol: d2l" in out


@pytest.mark.skipif(torch.cuda.is_available(), reason="there are GPUs")
def test_trainer_ddp_without_a_gpu_is_one_line(folder, monkeypatch, capsys):
    status, _, err = type_in(monkeypatch, capsys, "trainer=ddp")
    assert status == 1
    assert err.startswith("error: trainer.devices (=1) must be at most")


@pytest.mark.exhaustive
def test_torchrun_executes_a_run_directory(command):
    run = command.train("epochs=1", name="cluster")
    for name in ("summary.json", "checkpoints/last.ckpt", "checkpoints/best.ckpt", "metrics.csv"):
        (run / name).unlink()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, "-m", "fcn.worker", str(run)],
        cwd=command.folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert runs.read_summary(run)["world_size"] == 2


def test_python_example_of_the_tutorial(folder, capsys):
    (block,) = (block for block in python_blocks(TUTORIAL) if "fcn.compose(" in block)
    training, separator, prediction = block.partition("network =")
    small = ", ".join(f'"{option}"' for option in SMALL)
    namespace: dict = {"image": np.zeros((40, 50, 3), np.uint8)}
    exec(training.replace('"epochs=1"', small), namespace)
    (run,) = (folder / "outputs" / "notebook").iterdir()
    exec(separator + prediction.replace("<run>", str(run)), namespace)
    assert 0 <= namespace["metrics"]["val/mean_iou"] <= 1
    assert namespace["mask"].shape == (40, 50)
    assert namespace["logits"].shape == (6, 40, 50)

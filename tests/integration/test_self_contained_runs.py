"""A run is resumed without the files and the run from which its initial weights were read; `rerun` needs them again."""

import os
import shutil
import signal

import pytest
import timm
import torch
import torchvision.models as tv

import fcn
from fcn import runs
from fcn.training.task import SegmentationTask
from tests.commands import TINY, Command, type_in
from tests.identical_runs import assert_identical

SMALL = (
    *TINY, "data.shapes.num_val=2", "data.crop_size=[32,32]", "batch_size=4", "epochs=1", "trainer.sample_images=0",
    "backbone=squeezenet1_0",
)  # fmt: skip
RESNET10T = ("backbone=timm", "backbone.name=resnet10t")
SOURCES = {
    "a file and another run": ("backbone.weights=weights/squeezenet.pth", "model.init_from=earlier/run"),
    "torchvision's download": ("backbone.weights=imagenet",),
    "a file for timm": (*RESNET10T, "backbone.weights=weights/resnet10t.pth"),
    "timm's download": (*RESNET10T, "backbone.weights=imagenet"),
    "smp's download": ("model=smp", "backbone=smp", "backbone.name=tu-resnet10t", "backbone.weights=imagenet"),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Working directory with files of weights and the download folder of torch hub."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "weights").mkdir()
    (tmp_path / "hub/checkpoints").mkdir(parents=True)
    torch.manual_seed(1)
    states = {"squeezenet": tv.squeezenet1_0().state_dict(), "resnet10t": timm.create_model("resnet10t").state_dict()}
    for name, state in states.items():
        torch.save(state, f"weights/{name}.pth")
    torch.save(states["squeezenet"], "hub/checkpoints/squeezenet1_0-b66bff10.pth")
    torch.save(states["resnet10t"], "hub/checkpoints/resnet10t.c3_in1k.pth")
    return tmp_path


def delete_sources() -> None:
    for name in ("weights", "hub", "earlier"):
        shutil.rmtree(name, ignore_errors=True)


@pytest.mark.parametrize(
    "source", [pytest.param(name, marks=[pytest.mark.slow] if number else []) for number, name in enumerate(SOURCES)]
)
def test_run_resumes_bit_for_bit_without_the_sources_of_its_weights(source, folder, shapes_root, monkeypatch):
    if "smp" in source:
        pytest.importorskip("segmentation_models_pytorch")
    small = (*SMALL, "trainer=cpu", f"data.root={shapes_root}")
    if "model.init_from=earlier/run" in SOURCES[source]:
        fcn.train(fcn.compose(*small, "epochs=0"), folder / "earlier/run")
    config = fcn.compose(*small, *SOURCES[source])
    fcn.train(config, folder / "uninterrupted")
    training_step, run = SegmentationTask.training_step, folder / "interrupted"

    def interrupted_step(task, *args):
        if task.global_step == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return training_step(task, *args)

    with monkeypatch.context() as patched:
        patched.setattr(SegmentationTask, "training_step", interrupted_step)
        with pytest.raises(SystemExit):
            fcn.train(config, run)
    delete_sources()
    fcn.train(config, run)
    assert_identical(run, folder / "uninterrupted")


def test_rerun_needs_the_file_of_weights(folder, shapes_root, monkeypatch, capsys):
    overrides = ("trainer=cpu", f"data.root={shapes_root}", "epochs=0", "backbone.weights=weights/squeezenet.pth")
    fcn.train(fcn.compose(*SMALL, *overrides), folder / "run")
    delete_sources()
    status, _, err = type_in(monkeypatch, capsys, "rerun=run")
    assert status == 1
    assert err == (
        "error: rerun (=run) starts from the initial weights of the run again, unlike resume: backbone.weights "
        "(=weights/squeezenet.pth) must be none, imagenet or the path of a state dict, but there is no such file\n"
    )


@pytest.mark.exhaustive
def test_two_processes_resume_without_the_file_of_weights(folder, shapes_root):
    command = Command(folder, shapes_root)
    overrides = ("trainer=ddp_cpu", "backbone.weights=weights/squeezenet.pth", "epochs=1")
    run = command.train(*SMALL, *overrides, name="two")
    delete_sources()
    done = command(f"resume={run}", "epochs=2", "allow=[epochs]", TORCH_HOME=str(folder))
    assert done.returncode == 0, done.stderr
    assert [row["epoch"] for row in runs.read_metrics(run)] == ["0", "1"]

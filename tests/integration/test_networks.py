"""Runs of the segmentation networks of torchvision and of segmentation_models_pytorch, and runs without training."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models import segmentation

import fcn
from fcn import runs
from fcn.models.network import IMAGENET_MEAN, IMAGENET_STD
from tests.commands import TINY_DATA, TINY_RUN, load_command, only_entry, type_in


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_of(folder: Path, name: str) -> Path:
    return only_entry(folder / "outputs" / name)


@pytest.mark.slow
def test_torchvision_network_trains_and_predicts(folder, shapes_root, monkeypatch, capsys):
    network = ("model=torchvision", "model.name=lraspp_mobilenet_v3_large")
    small = ("epochs=1", "data.crop_size=[32,32]", f"data.root={shapes_root}")
    status, out, err = type_in(monkeypatch, capsys, *TINY_DATA, *TINY_RUN, *network, *small, "name=baseline")
    assert status == 0, err
    assert "torchvision's lraspp_mobilenet_v3_large (weights: backbone: none)" in out
    predictor = fcn.load(run_of(folder, "baseline"))
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    theirs = segmentation.lraspp_mobilenet_v3_large(num_classes=6, weights=None, weights_backbone=None).eval()
    theirs.load_state_dict(predictor.network.model.network.state_dict())
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (IMAGENET_MEAN, IMAGENET_STD))
    with torch.inference_mode():
        normalised = (torch.from_numpy(image).permute(2, 0, 1) / 255 - mean) / std
        expected = theirs(normalised[None])["out"][0]
    torch.testing.assert_close(predictor.logits(image), expected, rtol=1e-4, atol=1e-5)


BASELINES = [
    pytest.param(("model=smp", "model.name=unet", "backbone.name=resnet18"), marks=pytest.mark.slow),
    *(
        pytest.param((*network, "batch_size=2", "data.shapes.num_train=4"), marks=mark)
        for mark, network in (
            (pytest.mark.exhaustive, ("model=smp", "model.name=segformer", "backbone.name=mit_b0")),
            (pytest.mark.exhaustive, ("model=smp", "model.name=deeplabv3plus", "backbone.name=tu-resnet18")),
            (pytest.mark.slow, ("model=torchvision", "model.name=deeplabv3_mobilenet_v3_large")),
            (pytest.mark.exhaustive, ("model=torchvision", "model.name=deeplabv3_resnet101")),
        )
    ),
]


@pytest.mark.parametrize("network", BASELINES, ids=" ".join)
def test_baseline_is_trained_evaluated_exported_and_predicts(folder, shapes_root, monkeypatch, capsys, network):
    if "model=smp" in network:
        pytest.importorskip("segmentation_models_pytorch")

    def command(*arguments: str, script: str) -> str:
        status, out, err = type_in(monkeypatch, capsys, *arguments, script=load_command(script))
        assert status == 0, err
        return out

    small = ("epochs=1", "data.crop_size=[64,64]", "trainer=cpu", f"data.root={shapes_root}", "name=baseline")
    command(*TINY_DATA, *TINY_RUN, *small, *network, script="train")
    run = run_of(folder, "baseline")
    command(f"run={run}", "worst=0", script="evaluate")
    scores = json.loads((run / "evaluation" / "val" / "evaluation.json").read_text())["scores"]
    assert scores["mean_iou"] == runs.read_summary(run)["metrics"]["val/mean_iou"]
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    Image.fromarray(image).save("image.png")
    command(f"run={run}", "input=image.png", script="predict")
    predictor = fcn.load(run)
    predicted = np.asarray(Image.open("predictions/image.png"))
    np.testing.assert_array_equal(predicted, predictor.predict(image))
    options = ("format=torch_export", "output=network.pt2", "sizes=[[1,1],[33,47]]", "batches=[1,2]")
    command(f"run={run}", *options, script="export")
    logits, mask = torch.export.load("network.pt2").module()(torch.from_numpy(image).permute(2, 0, 1)[None])
    torch.testing.assert_close(logits[0], predictor.logits(image), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(mask[0], predicted)


def test_zero_epochs_save_the_initialised_network(folder, shapes_root, monkeypatch, capsys):
    options = ("backbone=squeezenet1_0", "model=fcn8s", "epochs=0", f"data.root={shapes_root}", "name=kept")
    status, out, err = type_in(monkeypatch, capsys, *options)
    assert status == 0, err
    run = run_of(folder, "kept")
    assert f"not trained (epochs=0); the initial network is in {Path(*run.parts[-3:]) / runs.LAST}" in out
    assert runs.read_summary(run)["status"] == "finished"
    torch.manual_seed(0)
    task = fcn.training.task.SegmentationTask(runs.load_config(run))
    kept = fcn.load(run).network.state_dict()
    assert all(torch.equal(kept[name], value) for name, value in task.state_dict().items())
    assert fcn.load(run).predict(np.zeros((5, 7, 3), np.uint8)).shape == (5, 7)

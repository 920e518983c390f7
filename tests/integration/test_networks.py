"""Runs of torchvision's segmentation networks, and runs without training."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.models import segmentation

import fcn
from fcn import runs
from fcn.models.network import IMAGENET_MEAN, IMAGENET_STD
from tests.commands import TINY, only_entry, type_in


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_of(folder: Path, name: str) -> Path:
    return only_entry(folder / "outputs" / name)


def test_torchvision_network_trains_and_predicts(folder, shapes_root, monkeypatch, capsys):
    network = ("model=torchvision", "model.name=lraspp_mobilenet_v3_large")
    small = ("epochs=1", "data.crop_size=[32,32]", f"data.root={shapes_root}")
    status, out, err = type_in(monkeypatch, capsys, *TINY, *network, *small, "name=baseline")
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

"""backbone=timm: rules between its keys and the rest of a run, and the normalisation that belongs to the weights."""

from pathlib import Path

import numpy as np
import pytest
import torch

import fcn
from fcn import config as configuration
from fcn.config import ConfigError
from fcn.inference.predictor import load_network
from fcn.models.network import IMAGENET_MEAN, SegmentationNetwork
from tests.commands import train_in_process


def compose(name: str, *overrides: str) -> configuration.Config:
    return fcn.compose("backbone=timm", f"backbone.name={name}", "data=shapes", *overrides)


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("resnet18x", [], r"backbone.name \(=resnet18x\) must be an architecture"),
        (
            "test_vit",
            ["model=fcn8s"],
            r"model \(=fcn8s\) must be fcn32s on test_vit, .* of stride 16; use model=fcn32s$",
        ),
        ("test_vit", ["model.auxiliary_weight=0.4"], r"model.auxiliary_weight \(=0.4\) must be 0 on test_vit"),
        ("test_vit", ["backbone.output_stride=8"], r"backbone.output_stride \(=8\) must be 16 on test_vit"),
        ("test_resnet", ["model.alignment=centered"], r"model.alignment \(=centered\) must be chapter on test_resnet"),
        ("skresnet18", ["batch_size=1"], r"batch_size \(=1\) must be at least 2 per process and part for skresnet18"),
        ("poolformer_s12", ["backbone.layer_decay=0.7"], "backbone.layer_decay must be null on poolformer_s12"),
    ],
)
def test_contradictory_keys_are_rejected_at_composition(name: str, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        compose(name, *overrides)


def test_centered_alignment_needs_positions_of_used_maps_only() -> None:
    assert compose("test_vit", "model.alignment=centered").model.alignment == "centered"


@pytest.mark.parametrize(
    ("overrides", "description"),
    [
        ([], "timm's test_vit (weights: none)"),
        (["backbone.weights=imagenet"], "timm's test_vit (weights: test_vit.r160_in1k, licence apache-2.0)"),
        (["backbone.weights=my.pth"], "timm's test_vit (weights: my.pth)"),
    ],
)
def test_header_names_weights_and_licence(overrides: list[str], description: str) -> None:
    config = compose("test_vit", *overrides)
    assert config.model.describe(config).startswith(f"fcn32s on {description}, bilinear upsampling")


def test_images_are_normalised_for_the_weights() -> None:
    network = SegmentationNetwork(compose("test_vit"))
    assert network.normalization == {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    torch.testing.assert_close(network.normalize(torch.ones(1, 3, 2, 2)), torch.ones(1, 3, 2, 2))
    imagenet = SegmentationNetwork(fcn.compose("backbone=squeezenet1_0", "data=shapes"))
    torch.testing.assert_close(imagenet.normalization["mean"], list(IMAGENET_MEAN))


def test_run_keeps_its_normalisation(tmp_path: Path, shapes_root: Path) -> None:
    """A later version of timm may publish weights with another normalisation under the same name."""
    overrides = ("backbone=timm", "backbone.name=test_vit", "epochs=1")
    run = train_in_process(tmp_path / "run", shapes_root, *overrides)
    checkpoint = run / "checkpoints" / "last.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    assert content["normalization"] == {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    content["normalization"] = {"mean": [0.25, 0.5, 0.75], "std": [1.0, 2.0, 4.0]}
    torch.save(content, tmp_path / "other.ckpt")
    assert load_network(tmp_path / "other.ckpt").normalization == content["normalization"]
    image = np.zeros((20, 30, 3), np.uint8)
    assert not torch.equal(fcn.load(checkpoint).logits(image), fcn.load(tmp_path / "other.ckpt").logits(image))

"""What a user relies on: torchvision's networks are torchvision's, for any size, and learn like any other."""

import functools

import pytest
import torch
import torchvision.models.segmentation as tv

from fcn.config import BackboneConfig, ConfigError, ModelConfig
from fcn.config.choices import BackboneName, ModelName, PublishedWeights
from fcn.models.network import build_model
from fcn.models.torchvision_models import BUILDERS, TorchvisionNetwork

LRASPP = ModelName.lraspp_mobilenet_v3_large


def build(name: ModelName = LRASPP, *, num_classes: int = 21, **config: object) -> TorchvisionNetwork:
    model = build_model(ModelConfig(name=name, **config), BackboneConfig(name=name.backbone), num_classes=num_classes)
    assert isinstance(model, TorchvisionNetwork)
    return model


@functools.cache
def shapes_only(name: ModelName) -> TorchvisionNetwork:
    with torch.device("meta"):
        return build(name, num_classes=5).eval()


@pytest.mark.parametrize("name", list(BUILDERS), ids=str)
def test_a_baseline_has_torchvisions_weights_without_an_auxiliary_head(name: ModelName) -> None:
    with torch.device("meta"):
        theirs = tv.__dict__[name.value](num_classes=5, weights_backbone=None)
    shapes = {key: value.shape for key, value in shapes_only(name).state_dict().items()}
    assert shapes == {f"network.{key}": value.shape for key, value in theirs.state_dict().items()}
    assert not any("aux" in key for key in shapes)


@pytest.mark.parametrize("name", list(BUILDERS), ids=str)
def test_scores_have_the_images_size(name: ModelName) -> None:
    for size in [(1, 1), (33, 47)]:
        assert shapes_only(name)(torch.empty(2, 3, *size, device="meta")).shape == (2, 5, *size)


@pytest.mark.parametrize("name", [ModelName.fcn_resnet50, LRASPP], ids=str)
def test_scores_are_torchvisions(name: ModelName) -> None:
    torch.manual_seed(0)
    network = tv.__dict__[name.value](num_classes=3, weights_backbone=None).eval()
    with torch.device("meta"):
        model = build(name, num_classes=3).eval()
    model.network.load_state_dict(network.state_dict(), assign=True)
    images = torch.randn(1, 3, 17, 33)
    with torch.no_grad():
        assert torch.equal(model(images), network(images)["out"])


@pytest.mark.parametrize("name", list(BUILDERS), ids=str)
def test_head_and_backbone_share_out_the_parameters(name: ModelName) -> None:
    model = shapes_only(name)
    head = {id(parameter) for parameter in model.head_parameters()}
    backbone = {id(parameter) for parameter in model.network.backbone.parameters()}
    assert head
    assert not head & backbone
    assert head | backbone == {id(parameter) for parameter in model.parameters()}


def test_every_parameter_learns() -> None:
    torch.manual_seed(0)
    model = build(num_classes=3)
    model(torch.randn(2, 3, 64, 96)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_vocs_weights_are_for_vocs_classes() -> None:
    message = r"model.weights \(=voc\) are for VOC's 21 classes, not 4; use data=voc"
    with pytest.raises(ConfigError, match=message), torch.device("meta"):
        build(num_classes=4, weights=PublishedWeights.voc)


def test_the_backbone_of_a_name_is_the_one_that_torchvision_builds() -> None:
    assert {name: name.backbone for name in BUILDERS} == {
        ModelName.fcn_resnet50: BackboneName.resnet50,
        ModelName.fcn_resnet101: BackboneName.resnet101,
        ModelName.deeplabv3_resnet50: BackboneName.resnet50,
        LRASPP: BackboneName.mobilenet_v3_large,
    }

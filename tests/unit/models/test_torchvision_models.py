"""torchvision's networks are built unchanged, accept any image size, and can be trained."""

import functools

import pytest
import torch
import torchvision.models.segmentation as tv

from fcn.config import ConfigError, option
from fcn.config.choices import PublishedWeights, TorchvisionModel
from fcn.models.torchvision_models import TorchvisionNetwork
from tests.unit.models.backbone_cases import build_model

LRASPP = TorchvisionModel.lraspp_mobilenet_v3_large
every_network = pytest.mark.parametrize("name", list(TorchvisionModel), ids=str)


def build(name: str = LRASPP, *, num_classes: int = 5, **config: object) -> TorchvisionNetwork:
    model = build_model(
        option("model", "torchvision", name=name, **config), option("backbone", name.backbone), num_classes=num_classes
    )
    assert isinstance(model, TorchvisionNetwork)
    return model


@functools.cache
def build_on_meta(name: str) -> TorchvisionNetwork:
    with torch.device("meta"):
        return build(name).eval()


@every_network
def test_parameters_are_those_of_torchvision_without_auxiliary_head(name: str) -> None:
    with torch.device("meta"):
        reference = tv.__dict__[name.value](num_classes=5, weights_backbone=None, aux_loss=False)
    shapes = {key: value.shape for key, value in build_on_meta(name).state_dict().items()}
    assert shapes == {f"network.{key}": value.shape for key, value in reference.state_dict().items()}


@every_network
@pytest.mark.parametrize("size", [(1, 1), (33, 47)])
def test_logits_have_image_size(name: str, size: tuple[int, int]) -> None:
    assert build_on_meta(name)(torch.empty(2, 3, *size, device="meta")).shape == (2, 5, *size)


@pytest.mark.parametrize("name", [TorchvisionModel.fcn_resnet50, LRASPP], ids=str)
def test_logits_equal_torchvision(name: str) -> None:
    torch.manual_seed(0)
    network = tv.__dict__[name.value](num_classes=3, weights_backbone=None).eval()
    with torch.device("meta"):
        model = build(name, num_classes=3).eval()
    model.network.load_state_dict(network.state_dict(), assign=True)
    images = torch.randn(1, 3, 17, 33)
    with torch.no_grad():
        assert torch.equal(model(images), network(images)["out"])


@every_network
def test_head_and_backbone_partition_parameters(name: str) -> None:
    model = build_on_meta(name)
    head = {id(parameter) for parameter in model.head_parameters()}
    backbone = {id(parameter) for parameter in model.network.backbone.parameters()}
    assert head
    assert not head & backbone
    assert head | backbone == {id(parameter) for parameter in model.parameters()}


def test_every_parameter_has_finite_gradient() -> None:
    torch.manual_seed(0)
    model = build(num_classes=3)
    model(torch.randn(2, 3, 64, 96)).square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_voc_weights_need_21_classes() -> None:
    with (
        pytest.raises(ConfigError, match=r"model.weights \(=voc\) needs VOC's 21 classes, not 4"),
        torch.device("meta"),
    ):
        build(num_classes=4, weights=PublishedWeights.voc)

"""The auxiliary head: a second head in training only, which changes nothing else."""

import pytest
import torch
import torchvision.models.segmentation as tv
from torch import Tensor, nn

import fcn
from fcn.config import ConfigError, option
from fcn.config.choices import TorchvisionModel
from fcn.config.composition import compose
from fcn.models.fcn import FCN
from fcn.models.network import SegmentationNetwork
from tests.commands import train_in_process
from tests.unit.models.backbone_cases import (
    Maps,
    build_model,
    build_on_meta,
    every_backbone,
    every_head,
    map_sizes,
)

LRASPP = TorchvisionModel.lraspp_mobilenet_v3_large


def build(head: str = "fcn8s", *, weight: float = 0.4, backbone: str = "squeezenet1_0", **keys: object) -> nn.Module:
    torch.manual_seed(0)
    config = option("model", head, auxiliary_weight=weight, **keys)
    return build_model(config, option("backbone", backbone), num_classes=3)


@every_head
def test_other_weights_and_logits_are_those_of_the_network_without_it(head: str) -> None:
    without, network = build(head, weight=0).eval(), build(head).eval()
    names = {name for name in network.state_dict() if not name.startswith("auxiliary.")}
    assert names == set(without.state_dict())
    assert all(torch.equal(without.state_dict()[name], network.state_dict()[name]) for name in names)
    images = torch.randn(1, 3, 40, 50)
    with torch.inference_mode():
        assert torch.equal(network(images), without(images))


@every_backbone
@pytest.mark.parametrize("alignment", ["chapter", "centered"])
def test_auxiliary_logits_have_image_size(name: str, alignment: str) -> None:
    backbone = build_on_meta(name)
    config = option("model", "fcn32s", auxiliary_weight=0.4, alignment=alignment)
    with torch.device("meta"):
        for size in [(1, 1), (33, 47), (375, 500)]:
            sizes = zip(backbone.channels, map_sizes(name, None, *size), strict=True)
            maps = Maps([torch.empty(2, channels, *sides) for channels, sides in sizes], backbone.grids)
            logits = FCN(maps, config, num_classes=21).train()(torch.empty(2, 3, *size))
            assert [each.shape for each in logits] == 2 * [(2, 21, *size)]


def test_auxiliary_logits_are_those_of_a_head_on_the_second_coarsest_map() -> None:
    network = build(backbone="resnet18").train()
    images = torch.randn(2, 3, 64, 96)
    features = network.backbone(images)[-2]
    assert features.shape[-2:] == (4, 6)
    _, logits = network(images)
    interpolated = nn.functional.interpolate(network.auxiliary.score(features), scale_factor=16, mode="bilinear")
    inside = (..., slice(8, -8), slice(8, -8))  # logits fade in the outermost half cell
    torch.testing.assert_close(logits[inside], interpolated[inside], rtol=1e-4, atol=1e-5)


def test_head_parameters_include_the_auxiliary_head() -> None:
    network = build()
    head = {id(parameter) for parameter in network.head_parameters()}
    assert {id(parameter) for parameter in network.auxiliary.parameters()} <= head


def test_network_returns_the_main_logits_alone() -> None:
    network = SegmentationNetwork(compose("model.auxiliary_weight=0.4", "backbone=squeezenet1_0")).train()
    images = torch.zeros(2, 3, 40, 50, dtype=torch.uint8)
    assert network(images).shape == (2, 6, 40, 50)
    assert len(network.all_logits(images)) == 2
    assert len(network.eval().all_logits(images)) == 1


@pytest.mark.parametrize("name", [name for name in TorchvisionModel if name is not LRASPP], ids=str)
def test_torchvision_networks_use_their_own(name: TorchvisionModel) -> None:
    config = option("model", "torchvision", name=name, auxiliary_weight=0.5)
    with torch.device("meta"):
        network = build_model(config, option("backbone", name.backbone), num_classes=5)
        reference = tv.__dict__[name.value](num_classes=5, weights_backbone=None, aux_loss=True)
        assert set(network.network.state_dict()) == set(reference.state_dict())
        images = torch.empty(2, 3, 64, 64)
        assert [each.shape for each in network.train()(images)] == 2 * [(2, 5, 64, 64)]
        assert isinstance(network.eval()(images), Tensor)


def test_logits_of_torchvision_networks_do_not_change() -> None:
    torch.manual_seed(0)
    config = option("model", "torchvision", name=TorchvisionModel.fcn_resnet50, auxiliary_weight=0.5)
    network = build_model(config, option("backbone", "resnet50"), num_classes=3).eval()
    images = torch.randn(1, 3, 17, 33)
    with torch.inference_mode():
        assert torch.equal(network(images), network.network(images)["out"])


def test_torchvision_network_without_auxiliary_head_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model.auxiliary_weight \(=0.4\) must be 0 for lraspp"):
        compose("model=torchvision", f"model.name={LRASPP}", "model.auxiliary_weight=0.4")


def test_trained_run_is_loaded_for_inference(tmp_path, shapes_root) -> None:
    run = train_in_process(
        tmp_path, shapes_root, "backbone=squeezenet1_0", "model=fcn8s", "model.auxiliary_weight=0.4", "epochs=1"
    )
    image = torch.randint(256, (50, 70, 3), dtype=torch.uint8).numpy()
    assert fcn.load(run).predict(image).shape == (50, 70)

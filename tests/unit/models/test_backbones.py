"""Feature maps of every backbone for any image size: shapes, grids, dilation, weights."""

import re

import pytest
import torch
import torchvision.models as tv
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.feature_extraction import create_feature_extractor

from fcn.config import ConfigError
from fcn.config.choices import BackboneName
from fcn.models.backbones import BACKBONES, Backbone
from tests.commands import ROOT, SHARED
from tests.unit.models.backbone_cases import DILATED, build, every_backbone, shapes_only, windows

SQUEEZENET_WEIGHTS = SHARED / "weights" / "squeezenet1_0-imagenet.pth"


@every_backbone
def test_every_backbone_gives_its_declared_maps(name: BackboneName) -> None:
    backbone = shapes_only(name)
    maps = backbone(torch.empty(2, 3, 320, 480, device="meta"))
    # VGG's padding of 100 makes 518 x 678 of it; the pools round up, and fc6 takes 6 cells away.
    beyond = [(25, 25), (13, 13), (1, 1)] if name.value.startswith("vgg") else [(0, 0)] * 3
    assert [tuple(features.shape) for features in maps] == [
        (2, channels, 320 // grid.stride + down, 480 // grid.stride + right)
        for channels, grid, (down, right) in zip(backbone.channels, backbone.grids, beyond, strict=True)
    ]


@pytest.mark.parametrize(
    ("name", "strides"), [(BackboneName.resnet50, (8, 16, 32)), (BackboneName.squeezenet1_0, (4, 8, 16))]
)
def test_the_three_coarsest_maps_come_fine_to_coarse(name: BackboneName, strides: tuple[int, ...]) -> None:
    assert tuple(grid.stride for grid in shapes_only(name).grids) == strides


@given(
    st.integers(1, 200),
    st.integers(1, 200),
    st.sampled_from([BackboneName.resnet18, BackboneName.squeezenet1_0]),
)
@settings(max_examples=30, deadline=None)
def test_maps_of_any_size_round_up(height: int, width: int, name: BackboneName) -> None:
    backbone = shapes_only(name)
    maps = backbone(torch.empty(1, 3, height, width, device="meta"))
    for features, grid in zip(maps, backbone.grids, strict=True):
        assert features.shape[-2:] == (-(-height // grid.stride), -(-width // grid.stride))


@pytest.mark.parametrize("size", [(1, 1), (1, 33), (33, 65)])
def test_convnext_pads_to_whole_cells_and_so_rounds_up_too(size: tuple[int, int]) -> None:
    height, width = size
    maps = shapes_only(BackboneName.convnext_tiny)(torch.empty(1, 3, height, width, device="meta"))
    rows, columns = -(-height // 32), -(-width // 32)
    assert [features.shape[-2:] for features in maps] == [(rows * k, columns * k) for k in (4, 2, 1)]


# --- where the cells lie ---


def receptive_field(cell: Tensor, images: Tensor) -> Tensor:
    """How much each pixel of a long, one pixel thin image counts in `cell`."""
    (gradient,) = torch.autograd.grad(cell.sum(), images, retain_graph=True)
    return gradient.sum(dim=1).flatten()


def assert_cells_lie_on_the_grids(backbone: Backbone, *, axis: int) -> None:
    length = 2048  # the largest backbone sees 1500 pixels
    shape = [1, 3, 1, 1]
    shape[axis] = length
    images = torch.ones(shape, dtype=torch.float64, requires_grad=True)
    for features, grid in zip(backbone(images), backbone.grids, strict=True):
        i = round((length // 2 - grid.offset) / grid.stride) - 1
        field = receptive_field(features.select(axis, i), images)
        assert field[0] == 0 == field[-1], "the receptive field must lie inside the image"
        twice_the_centre = int(2 * (grid.stride * i + grid.offset))
        assert field[twice_the_centre // 2] > 0
        assert (field[twice_the_centre + 1 :] == 0).all()
        inside = field[: twice_the_centre + 1]
        torch.testing.assert_close(inside, inside.flip(0))


@pytest.mark.parametrize("axis", [2, 3], ids=["rows", "columns"])
@every_backbone
def test_cell_i_is_centred_at_stride_times_i_plus_offset(name: BackboneName, axis: int) -> None:
    assert_cells_lie_on_the_grids(windows(name), axis=axis)


@pytest.mark.parametrize(("name", "output_stride"), DILATED)
def test_cells_of_a_dilated_backbone_lie_on_its_grids_too(name: BackboneName, output_stride: int) -> None:
    assert_cells_lie_on_the_grids(windows(name, output_stride), axis=3)


# --- as torchvision's ---


def test_resnet_maps_are_those_of_torchvision() -> None:
    network = tv.resnet18().eval()
    backbone = build(BackboneName.resnet18).eval()
    backbone.layers.load_state_dict(network.state_dict(), strict=False)
    images = torch.randn(1, 3, 65, 70)
    expected = create_feature_extractor(network, ["layer2", "layer3", "layer4"])(images).values()
    for features, reference in zip(backbone(images), expected, strict=True):
        assert torch.equal(features, reference)


@pytest.mark.parametrize(
    ("name", "nodes"),
    [
        (BackboneName.mobilenet_v3_large, ["features.6", "features.12", "features.16"]),
        (BackboneName.convnext_tiny, ["features.3", "features.5", "features.7"]),
    ],
)
def test_other_maps_are_those_of_torchvision(name: BackboneName, nodes: list[str]) -> None:
    network = tv.get_model(name.value).eval()
    backbone = build(name).eval()
    backbone.layers.load_state_dict(network.state_dict(), strict=False)
    images = torch.randn(1, 3, 64, 96)
    maps = {}
    for node in nodes:
        network.get_submodule(node).register_forward_hook(lambda _, __, out, node=node: maps.update({node: out}))
    with torch.no_grad():
        network(images)
        for features, reference in zip(backbone(images), maps.values(), strict=True):
            assert torch.equal(features, reference)


def assert_same_inside(backbone: Backbone, network: nn.Module, images: Tensor) -> None:
    """On an image moved by 17 pixels torchvision's unpadded layers see what ours see, border effects apart.

    Behind a convolution (k7) and three pools (k3), all of stride 2 and without padding, what is our cell i is
    their cell i + 3, i + 1 and i at strides 4, 8 and 16.
    """
    nodes = ["features.5", "features.10", "features.12"]
    moved = F.pad(images, (17, 17 + 64, 17, 17 + 64))
    expected = create_feature_extractor(network, nodes)(moved).values()
    margin = 80  # the largest receptive field reaches 77 pixels to each side
    cells = zip(backbone(images), expected, backbone.grids, (3, 1, 0), strict=True)
    for ours, theirs, grid, shift in cells:
        inner = slice(margin // grid.stride, (images.shape[-1] - margin) // grid.stride)
        there = slice(inner.start + shift, inner.stop + shift)
        assert inner.stop - inner.start >= 2
        torch.testing.assert_close(ours[..., inner, inner], theirs[..., there, there], rtol=1e-4, atol=1e-4)


def test_squeezenet_sees_the_same_as_torchvisions_from_other_cells() -> None:
    network = tv.squeezenet1_0().eval()
    backbone = build().eval()
    backbone.layers.load_state_dict(network.state_dict(), strict=False)
    assert_same_inside(backbone, network, torch.randn(1, 3, 224, 224))


@pytest.mark.realdata
@pytest.mark.skipif(not SQUEEZENET_WEIGHTS.exists(), reason="needs the genuine SqueezeNet weights")
def test_genuine_weights_see_the_same_as_in_torchvisions_network() -> None:
    network = tv.squeezenet1_0().eval()
    network.load_state_dict(torch.load(SQUEEZENET_WEIGHTS, weights_only=True))
    backbone = build(weights=str(SQUEEZENET_WEIGHTS)).eval()
    torch.manual_seed(0)
    assert_same_inside(backbone, network, torch.randn(1, 3, 224, 224))


def test_the_forward_pass_compiles_without_a_break() -> None:
    backbone = build().eval()
    images = torch.randn(1, 3, 33, 47)
    compiled = torch.compile(backbone, backend="eager", fullgraph=True)
    for features, reference in zip(compiled(images), backbone(images), strict=True):
        assert torch.equal(features, reference)


def test_the_random_backbone_follows_torchs_seed() -> None:
    torch.manual_seed(3)
    backbone = build()
    torch.manual_seed(3)
    network = tv.squeezenet1_0()
    assert torch.equal(backbone.layers.get_parameter("features.0.weight"), network.features[0].weight)


# --- dilation ---


@pytest.mark.parametrize(("output_stride", "replaced"), [(8, [False, True, True]), (16, [False, False, True])])
def test_a_dilated_resnet_is_torchvisions(output_stride: int, replaced: list[bool]) -> None:
    network = tv.resnet50(replace_stride_with_dilation=replaced).eval()
    backbone = build(BackboneName.resnet50, output_stride=output_stride).eval()
    backbone.layers.load_state_dict(network.state_dict(), strict=False)
    images = torch.randn(1, 3, 65, 47)
    with torch.no_grad():
        expected = create_feature_extractor(network, ["layer2", "layer3", "layer4"])(images).values()
        for features, reference in zip(backbone(images), expected, strict=True):
            assert torch.equal(features, reference)


@pytest.mark.parametrize(("name", "output_stride"), DILATED)
def test_a_dilated_backbone_has_the_same_weights_and_finer_maps(name: BackboneName, output_stride: int) -> None:
    dilated, plain = shapes_only(name, output_stride), shapes_only(name)
    assert {key: value.shape for key, value in dilated.state_dict().items()} == {
        key: value.shape for key, value in plain.state_dict().items()
    }
    strides = [min(stride, output_stride) for stride in (8, 16, 32)]
    assert [grid.stride for grid in dilated.grids] == strides
    maps = dilated(torch.empty(1, 3, 65, 47, device="meta"))
    assert [features.shape[-2:] for features in maps] == [(-(-65 // s), -(-47 // s)) for s in strides]


@pytest.mark.parametrize(
    ("name", "output_stride"),
    [
        (BackboneName.resnet18, 32),
        (BackboneName.mobilenet_v3_large, 32),
        (BackboneName.squeezenet1_0, 16),
        (BackboneName.vgg16, 32),
        (BackboneName.convnext_tiny, 32),
    ],
)
def test_the_backbones_own_stride_changes_nothing(name: BackboneName, output_stride: int) -> None:
    # The text of a network names kernels, strides, paddings and dilations of all layers.
    assert str(shapes_only(name, output_stride)) == str(shapes_only(name))


@pytest.mark.parametrize(
    ("name", "output_stride", "allowed"),
    [
        (BackboneName.squeezenet1_0, 8, "16 on squeezenet1_0"),
        (BackboneName.vgg16, 16, "32 on vgg16"),
        (BackboneName.vgg16_bn, 8, "32 on vgg16_bn"),
        (BackboneName.convnext_tiny, 8, "32 on convnext_tiny"),
        (BackboneName.resnet18, 12, "8 or 16 or 32 on resnet18"),
    ],
)
def test_an_output_stride_that_cannot_be_had_is_refused(name: BackboneName, output_stride: int, allowed: str) -> None:
    message = rf"^backbone.output_stride \(={output_stride}\) must be {allowed}; use null, or a ResNet or MobileNet"
    with pytest.raises(ConfigError, match=message), torch.device("meta"):
        build(name, output_stride=output_stride)


def test_the_table_of_the_networks_page_is_the_one_in_code() -> None:
    page = (ROOT / "docs" / "networks.md").read_text()
    told = {}
    for row in re.findall(r"^\| ((?:resnet|mobile|squeeze|convnext|vgg).*) \|$", page, re.M):
        names, *cells = row.split(" | ")
        numbers = [tuple(float(number) for number in cell.split(", ")) for cell in cells]
        told.update(dict.fromkeys(names.split(", "), numbers))
    for name, backbone in BACKBONES.items():
        output_strides = backbone.strides if backbone.dilates else backbone.strides[-1:]
        assert told.pop(name.value) == [backbone.strides, backbone.channels, backbone.offsets, output_strides]
    assert told == {}

"""Feature maps of every backbone for any image size: shapes, grids, dilation, equality with torchvision."""

import re

import pytest
import torch
import torchvision.models as tv
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torchvision.models.feature_extraction import create_feature_extractor

from fcn.config import ConfigError
from fcn.models.backbones import BACKBONES, Backbone
from tests.commands import ROOT, SHARED
from tests.unit.models.backbone_cases import DILATED, build, build_on_meta, every_backbone, map_sizes, windows

SQUEEZENET_WEIGHTS = SHARED / "weights" / "squeezenet1_0-imagenet.pth"
every_dilated = pytest.mark.parametrize(("name", "output_stride"), DILATED)


@every_backbone
def test_maps_have_declared_strides_and_channels(name: str) -> None:
    backbone = build_on_meta(name)
    maps = backbone(torch.empty(2, 3, 320, 480, device="meta"))
    # VGG's padding of 100 gives 518 x 678 pixels; the pools round up, and fc6 removes 6 cells.
    additional = [(25, 25), (13, 13), (1, 1)] if name.startswith("vgg") else [(0, 0)] * 3
    assert [tuple(features.shape) for features in maps] == [
        (2, channels, 320 // grid.stride + down, 480 // grid.stride + right)
        for channels, grid, (down, right) in zip(backbone.channels, backbone.grids, additional, strict=True)
    ]


@given(st.integers(1, 200), st.integers(1, 200), st.sampled_from(["resnet18", "squeezenet1_0"]))
@settings(max_examples=30, deadline=None)
def test_map_sizes_round_up(height: int, width: int, name: str) -> None:
    strides = (4, 8, 16) if name == "squeezenet1_0" else (8, 16, 32)
    assert map_sizes(name, None, height, width) == [(-(-height // s), -(-width // s)) for s in strides]


@pytest.mark.parametrize("size", [(1, 1), (1, 33), (33, 65)])
def test_convnext_pads_image_to_complete_cells(size: tuple[int, int]) -> None:
    rows, columns = (-(-side // 32) for side in size)
    assert map_sizes("convnext_tiny", None, *size) == [(rows * k, columns * k) for k in (4, 2, 1)]


# --- positions of the cells ---


def receptive_field(cell: Tensor, images: Tensor) -> Tensor:
    """Return the gradient of `cell` for each pixel of an image that is one pixel wide."""
    (gradient,) = torch.autograd.grad(cell.sum(), images, retain_graph=True)
    return gradient.sum(dim=1).flatten()


def assert_cells_lie_on_grids(backbone: Backbone, *, axis: int) -> None:
    length = 2048  # the largest receptive field has 1500 pixels
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
def test_cells_are_centred_on_grid(name: str, axis: int) -> None:
    assert_cells_lie_on_grids(windows(name), axis=axis)


@every_dilated
def test_dilated_cells_are_centred_on_grid(name: str, output_stride: int) -> None:
    assert_cells_lie_on_grids(windows(name, output_stride), axis=3)


# --- equality with torchvision ---


@pytest.mark.parametrize(
    ("name", "output_stride", "replaced"),
    [
        ("resnet18", None, None),
        ("resnet50", 8, [False, True, True]),
        ("resnet50", 16, [False, False, True]),
        ("mobilenet_v3_large", None, None),
        ("convnext_tiny", None, None),
    ],
)
def test_maps_equal_torchvision(name: str, output_stride: int | None, replaced: list[bool] | None) -> None:
    options = {"replace_stride_with_dilation": replaced} if replaced else {}
    network = tv.get_model(name, **options).eval()
    backbone = build(name, output_stride=output_stride).eval()
    backbone.layers.load_state_dict(network.state_dict(), strict=False)
    size = (64, 96) if name == "convnext_tiny" else (65, 70)  # ConvNeXt drops incomplete cells
    images = torch.randn(1, 3, *size)
    with torch.no_grad():
        expected = create_feature_extractor(network, list(BACKBONES[name].outputs))(images).values()
        for features, reference in zip(backbone(images), expected, strict=True):
            assert torch.equal(features, reference)


@pytest.mark.parametrize(
    "weights",
    [
        "none",
        pytest.param(
            str(SQUEEZENET_WEIGHTS),
            marks=[
                pytest.mark.realdata,
                pytest.mark.skipif(not SQUEEZENET_WEIGHTS.exists(), reason="needs the SqueezeNet weights"),
            ],
            id="imagenet",
        ),
    ],
)
def test_padded_squeezenet_equals_torchvision_on_shifted_image(weights: str) -> None:
    """If the image is shifted by 17 pixels, the layers without padding compute the same values inside the image.

    After a convolution (kernel 7) and three pools (kernel 3), all of stride 2 and without padding, our cell i is
    torchvision's cell i + 3, i + 1 and i at strides 4, 8 and 16.
    """
    torch.manual_seed(0)
    backbone = build(weights=weights).eval()
    network = tv.squeezenet1_0().eval()
    network.load_state_dict(backbone.layers.state_dict(), strict=False)
    images = torch.randn(1, 3, 224, 224)
    shifted = F.pad(images, (17, 17 + 64, 17, 17 + 64))
    expected = create_feature_extractor(network, ["features.5", "features.10", "features.12"])(shifted).values()
    margin = 80  # the largest receptive field extends by 77 pixels to each side
    for ours, theirs, grid, shift in zip(backbone(images), expected, backbone.grids, (3, 1, 0), strict=True):
        inside = slice(margin // grid.stride, (224 - margin) // grid.stride)
        assert inside.stop - inside.start >= 2
        there = slice(inside.start + shift, inside.stop + shift)
        torch.testing.assert_close(ours[..., inside, inside], theirs[..., there, there], rtol=1e-4, atol=1e-4)


def test_backbone_compiles_without_graph_break() -> None:
    backbone = build().eval()
    images = torch.randn(1, 3, 33, 47)
    compiled = torch.compile(backbone, backend="eager", fullgraph=True)
    for features, reference in zip(compiled(images), backbone(images), strict=True):
        assert torch.equal(features, reference)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("squeezenet1_0", "features.0"),
        pytest.param("vgg16", "classifier.0", marks=pytest.mark.slow),
    ],
)
def test_random_weights_are_those_of_torchvision(name: str, layer: str) -> None:
    torch.manual_seed(3)
    weight = build(name).layers.get_parameter(f"{layer}.weight")
    torch.manual_seed(3)
    network = tv.get_model(name)
    assert torch.equal(weight.flatten(1), network.get_parameter(f"{layer}.weight").flatten(1))
    assert weight.is_leaf
    assert weight.requires_grad


# --- dilation ---


@every_dilated
def test_dilation_keeps_weights_and_makes_maps_finer(name: str, output_stride: int) -> None:
    dilated, plain = build_on_meta(name, output_stride), build_on_meta(name)
    shapes, expected = ({key: v.shape for key, v in network.state_dict().items()} for network in (dilated, plain))
    assert shapes == expected
    strides = [min(stride, output_stride) for stride in (8, 16, 32)]
    assert [grid.stride for grid in dilated.grids] == strides
    assert map_sizes(name, output_stride, 65, 47) == [(-(-65 // s), -(-47 // s)) for s in strides]


@pytest.mark.parametrize(
    ("name", "output_stride"),
    [
        ("resnet18", 32),
        ("mobilenet_v3_large", 32),
        ("squeezenet1_0", 16),
        ("vgg16", 32),
        ("convnext_tiny", 32),
    ],
)
def test_default_output_stride_changes_nothing(name: str, output_stride: int) -> None:
    # The representation of a network includes kernels, strides, paddings and dilations of all layers.
    assert str(build_on_meta(name, output_stride)) == str(build_on_meta(name))


@pytest.mark.parametrize(
    ("name", "output_stride", "allowed"),
    [
        ("squeezenet1_0", 8, "16 on squeezenet1_0"),
        ("vgg16", 16, "32 on vgg16"),
        ("convnext_tiny", 8, "32 on convnext_tiny"),
        ("resnet18", 12, "8 or 16 or 32 on resnet18"),
    ],
)
def test_unsupported_output_stride_is_rejected(name: str, output_stride: int, allowed: str) -> None:
    message = rf"^backbone.output_stride \(={output_stride}\) must be {allowed}; use null"
    with pytest.raises(ConfigError, match=message), torch.device("meta"):
        build(name, output_stride=output_stride)


def test_table_in_documentation_matches_code() -> None:
    page, _, _ = (ROOT / "docs" / "networks.md").read_text().partition("## Backbones of timm")
    rows = {}
    for row in re.findall(r"^\| ((?:resnet|mobile|squeeze|convnext|vgg).*) \|$", page, re.M):
        names, *cells = row.split(" | ")
        numbers = [tuple(float(number) for number in cell.split(", ")) for cell in cells]
        rows.update(dict.fromkeys(names.split(", "), numbers))
    assert rows == {
        name: [spec.strides, spec.channels, spec.offsets, spec.strides if spec.dilates else spec.strides[-1:]]
        for name, spec in BACKBONES.items()
    }

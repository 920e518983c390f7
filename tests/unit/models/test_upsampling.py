"""Bilinear initialisation interpolates each class separately at the right position; Xavier is Glorot uniform."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from fcn.config import option
from fcn.config.choices import Algorithm, Border, Init
from fcn.models.upsampling import PIXELS, Grid, Upsampling, bilinear_kernel


def cornered(stride: int) -> Grid:
    """Return a grid whose cells are squares of pixels, the first one in the corner of the image."""
    return Grid(stride, (stride - 1) / 2)


def upsampling(channels: int, source: Grid, target: Grid = PIXELS, **config: object) -> Upsampling:
    return Upsampling(channels, source=source, target=target, config=option("model", "fcn32s", **config))


def d2l_kernel(in_channels: int, out_channels: int, kernel_size: int) -> Tensor:
    """Listing of "Dive into Deep Learning", section 14.11 (fully convolutional networks), unmodified."""
    factor = (kernel_size + 1) // 2
    center = factor - 1 if kernel_size % 2 == 1 else factor - 0.5
    og = (torch.arange(kernel_size).reshape(-1, 1), torch.arange(kernel_size).reshape(1, -1))
    filt = (1 - torch.abs(og[0] - center) / factor) * (1 - torch.abs(og[1] - center) / factor)
    weight = torch.zeros((in_channels, out_channels, kernel_size, kernel_size))
    weight[range(in_channels), range(out_channels), :, :] = filt
    return weight


@given(st.integers(1, 3), st.integers(1, 17))
def test_kernel_follows_definition_for_odd_and_even_sizes(channels: int, size: int) -> None:
    factor = (size + 1) // 2
    centre = factor - 1 if size % 2 == 1 else factor - 0.5
    tent = [1 - abs(place - centre) / factor for place in range(size)]
    expected = torch.zeros(channels, channels, size, size)
    for channel, row, column in itertools.product(range(channels), range(size), range(size)):
        expected[channel, channel, row, column] = tent[row] * tent[column]
    torch.testing.assert_close(bilinear_kernel(channels, size), expected)


def test_kernel_equals_d2l_listing() -> None:
    assert torch.equal(bilinear_kernel(21, 64), d2l_kernel(21, 21, 64))


def test_kernel_of_stride_two() -> None:
    tent = torch.tensor([0.25, 0.75, 0.75, 0.25])
    assert torch.equal(bilinear_kernel(1, 4)[0, 0], tent[:, None] * tent)


every_stride = pytest.mark.parametrize("stride", [2, 4, 8, 16, 32])


@every_stride
@pytest.mark.parametrize("border", list(Border), ids=str)
def test_bilinear_equals_interpolate(stride: int, border: Border) -> None:
    layer = upsampling(3, cornered(stride), border=border)
    scores = torch.randn(2, 3, 5, 6)
    expected = F.interpolate(scores, scale_factor=stride, mode="bilinear", align_corners=False)
    upsampled = layer(scores)
    assert upsampled.shape == expected.shape
    margin = stride // 2 if border is Border.zero else 0  # with zero padding, the outermost half cell fades
    height, width = expected.shape[-2:]
    inside = (..., slice(margin, height - margin), slice(margin, width - margin))
    torch.testing.assert_close(upsampled[inside], expected[inside])


@every_stride
def test_bilinear_between_centred_cells_equals_interpolate_with_aligned_corners(stride: int) -> None:
    layer = upsampling(3, Grid(stride, 0.0))
    scores = torch.randn(2, 3, 5, 6)
    size = (4 * stride + 1, 5 * stride + 1)  # from the first centre to the last
    expected = F.interpolate(scores, size, mode="bilinear", align_corners=True)
    upsampled = layer(scores)
    assert upsampled.shape[-2:] == (5 * stride, 6 * stride)
    torch.testing.assert_close(upsampled[..., : size[0], : size[1]], expected)


@pytest.mark.parametrize("border", list(Border), ids=str)
def test_bilinear_between_equal_grids_is_identity(border: Border) -> None:
    layer = upsampling(3, Grid(8, 0.0), Grid(8, 0.0), border=border)
    scores = torch.randn(2, 3, 5, 6)
    assert torch.equal(layer(scores), scores)


FINER = [
    # source, target, kernel, padding, first cell
    (cornered(32), PIXELS, 64, 16, 0),  # d2l
    (cornered(32), cornered(16), 4, 1, 0),
    (Grid(32, 0.0), PIXELS, 63, 31, 0),
    (Grid(32, 0.0), Grid(16, 0.0), 3, 1, 0),
    (Grid(32, 12.5), PIXELS, 64, 19, 0),  # Long et al.
    (Grid(32, 12.5), Grid(16, -91.5), 4, 0, 5),
    (Grid(8, 0.0), Grid(8, 0.0), 1, 0, 0),
]


@pytest.mark.parametrize(("source", "target", "kernel", "padding", "first"), FINER)
def test_kernel_and_padding_follow_from_grids(
    source: Grid, target: Grid, kernel: int, padding: int, first: int
) -> None:
    layer = upsampling(1, source, target)
    assert (layer.kernel_size, layer.padding, layer.first) == ((kernel, kernel), (padding, padding), first)
    assert layer.stride == (source.stride // target.stride,) * 2


@pytest.mark.parametrize("border", list(Border), ids=str)
@pytest.mark.parametrize(("source", "target"), [case[:2] for case in FINER])
def test_kernel_is_centred_on_source_cell(source: Grid, target: Grid, border: Border) -> None:
    layer = upsampling(1, source, target, border=border)
    scores = torch.zeros(1, 1, 9, 9)
    scores[..., 4, 4] = 1
    upsampled = layer(scores)[0, 0].sum(dim=0).detach().double()
    assert upsampled.argmax() > 0
    cells = torch.arange(len(upsampled), dtype=torch.float64)
    centre = (upsampled * cells).sum() / upsampled.sum()
    pixel = target.stride * (centre + layer.first) + target.offset
    assert pixel.item() == pytest.approx(source.stride * 4 + source.offset, abs=1e-4)


@pytest.mark.parametrize(("border", "edge", "corner"), [(Border.zero, 0.515625, 0.265869), (Border.replicate, 1, 1)])
def test_scores_fade_at_zero_borders_only(border: Border, edge: float, corner: float) -> None:
    upsampled = upsampling(1, cornered(32), border=border)(torch.ones(1, 1, 3, 4))[0, 0]
    middle = (slice(16, -16), slice(16, -16))
    torch.testing.assert_close(upsampled[middle], torch.ones_like(upsampled[middle]))
    for side in (upsampled[0, 16:-16], upsampled[-1, 16:-16], upsampled[16:-16, 0], upsampled[16:-16, -1]):
        torch.testing.assert_close(side, torch.full_like(side, edge))
    for row in (0, -1):
        assert upsampled[row, [0, -1]].tolist() == pytest.approx([corner, corner], abs=1e-5)


def test_bilinear_does_not_mix_classes() -> None:
    layer = upsampling(4, cornered(8))
    scores = torch.zeros(1, 4, 3, 3)
    scores[:, 2] = torch.rand(3, 3) + 1
    upsampled = layer(scores)
    assert (upsampled[:, 2] > 0).all()
    assert not upsampled[:, [0, 1, 3]].any()


def test_xavier_is_glorot_uniform() -> None:
    torch.manual_seed(0)
    weight = upsampling(21, cornered(32), init=Init.xavier).weight
    bound = math.sqrt(6 / (21 * 64 * 64 + 21 * 64 * 64))
    assert weight.shape == (21, 21, 64, 64)
    assert 0.999 * bound < weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.01)
    assert weight.mean().item() == pytest.approx(0, abs=0.01 * bound)


@pytest.mark.parametrize("init", list(Init))
def test_bias_starts_at_zero(init: Init) -> None:
    layer = upsampling(21, cornered(32), init=init)
    assert layer.bias is not None
    assert not layer.bias.any()


@pytest.mark.parametrize("trainable", [True, False])
def test_upsample_trainable_applies_to_weight_and_bias(*, trainable: bool) -> None:
    layer = upsampling(2, cornered(4), upsample_trainable=trainable)
    assert [parameter.requires_grad for parameter in layer.parameters()] == [trainable, trainable]


GEOMETRIES = [
    (cornered(32), PIXELS),
    (Grid(32, 0.0), PIXELS),
    (Grid(8, 3.5), PIXELS),
    (Grid(32, 0.0), Grid(16, 0.0)),
    (Grid(16, 7.5), Grid(8, 3.5)),
    (Grid(8, -3.0), PIXELS),
    (Grid(8, 30.5), PIXELS),
    (Grid(2, 0.5), PIXELS),
]


@pytest.mark.parametrize(("source", "target"), GEOMETRIES)
@pytest.mark.parametrize("border", list(Border))
@pytest.mark.parametrize("limit", [None, (5, 9), (500, 7)], ids=str)
def test_subpixel_equals_transposed_convolution(
    source: Grid, target: Grid, border: Border, limit: tuple[int, int] | None
) -> None:
    """Outputs and gradients in float64 differ only by the order of summation, also if the output is cut off."""
    torch.manual_seed(0)
    layer = upsampling(3, source, target, border=border, init=Init.xavier).double()
    results = []
    for layer.algorithm in (Algorithm.transposed, Algorithm.subpixel):
        scores = torch.linspace(-1, 1, 2 * 3 * 4 * 5, dtype=torch.float64).view(2, 3, 4, 5).cos().requires_grad_()
        logits = layer(scores, limit and torch.Size(limit))
        weighted = (logits * torch.arange(logits.numel()).view(logits.shape).sin()).sum()
        results.append([logits, *torch.autograd.grad(weighted, [scores, *layer.parameters()])])
    for result, expected in zip(*results, strict=True):
        torch.testing.assert_close(result, expected, rtol=1e-12, atol=1e-12)
    height, width = limit or (None, None)
    torch.testing.assert_close(results[0][0], layer(scores)[..., :height, :width], rtol=1e-12, atol=1e-12)


def test_subpixel_computes_in_autocast_precision() -> None:
    layer = upsampling(3, cornered(8))
    scores, gradients = torch.randn(2, 3, 4, 5), []
    for layer.algorithm in (Algorithm.transposed, Algorithm.subpixel):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = layer(scores)
        assert logits.dtype is torch.bfloat16
        gradients.append(torch.autograd.grad(logits.float().square().sum(), layer.weight)[0])
    torch.testing.assert_close(*gradients, rtol=0.05, atol=0.05 * float(gradients[0].abs().max()))


def test_cpu_uses_subpixel_for_large_factors_by_default() -> None:
    large, small = upsampling(6, cornered(8)), upsampling(6, cornered(32), cornered(16))
    assert set(large.state_dict()) == {"weight", "bias"}  # the algorithm is not saved
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert [layer.chosen(cpu) for layer in (large, small)] == [Algorithm.subpixel, Algorithm.transposed]
    assert large.chosen(gpu) is Algorithm.transposed
    large.algorithm = Algorithm.transposed
    assert large.chosen(cpu) is Algorithm.transposed

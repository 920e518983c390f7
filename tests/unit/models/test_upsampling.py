"""What a user relies on: `bilinear` interpolates each class alone, where its cells lie; `xavier` is Glorot's."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from fcn.config import ModelConfig
from fcn.config.choices import Algorithm, Border, Init
from fcn.models.upsampling import PIXELS, Grid, Upsampling, bilinear_kernel


def cornered(stride: int) -> Grid:
    """Cells that are squares of pixels, the first one in the corner of the image."""
    return Grid(stride, (stride - 1) / 2)


def upsampling(channels: int, source: Grid, target: Grid = PIXELS, **config: object) -> Upsampling:
    return Upsampling(channels, source=source, target=target, config=ModelConfig(**config))


def by_the_paper(channels: int, kernel_size: int) -> Tensor:
    """The rule of the paper and the chapter, weight by weight."""
    factor = (kernel_size + 1) // 2
    centre = factor - 1 if kernel_size % 2 == 1 else factor - 0.5
    weight = torch.zeros(channels, channels, kernel_size, kernel_size)
    for channel in range(channels):
        for row in range(kernel_size):
            for column in range(kernel_size):
                weight[channel, channel, row, column] = (1 - abs(row - centre) / factor) * (
                    1 - abs(column - centre) / factor
                )
    return weight


def by_the_chapter(in_channels: int, out_channels: int, kernel_size: int) -> Tensor:
    """The listing of "Dive into Deep Learning", section 14.11 (fully convolutional networks), as printed."""
    factor = (kernel_size + 1) // 2
    center = factor - 1 if kernel_size % 2 == 1 else factor - 0.5
    og = (torch.arange(kernel_size).reshape(-1, 1), torch.arange(kernel_size).reshape(1, -1))
    filt = (1 - torch.abs(og[0] - center) / factor) * (1 - torch.abs(og[1] - center) / factor)
    weight = torch.zeros((in_channels, out_channels, kernel_size, kernel_size))
    weight[range(in_channels), range(out_channels), :, :] = filt
    return weight


@given(st.integers(1, 3), st.integers(1, 17))
def test_kernel_follows_the_paper_for_odd_and_even_sizes(channels: int, kernel_size: int) -> None:
    torch.testing.assert_close(bilinear_kernel(channels, kernel_size), by_the_paper(channels, kernel_size))


def test_kernel_is_the_chapters() -> None:
    assert torch.equal(bilinear_kernel(21, 64), by_the_chapter(21, 21, 64))


def test_kernel_of_stride_two_is_the_known_one() -> None:
    tent = torch.tensor([0.25, 0.75, 0.75, 0.25])
    assert torch.equal(bilinear_kernel(1, 4)[0, 0], tent[:, None] * tent)


@pytest.mark.parametrize("stride", [2, 4, 8, 16, 32])
def test_bilinear_is_interpolation_away_from_the_edges(stride: int) -> None:
    layer = upsampling(3, cornered(stride))
    scores = torch.randn(2, 3, 5, 6)
    expected = F.interpolate(scores, scale_factor=stride, mode="bilinear", align_corners=False)
    upsampled = layer(scores)
    assert upsampled.shape == expected.shape
    inside = slice(stride // 2, -(stride // 2))
    torch.testing.assert_close(upsampled[..., inside, inside], expected[..., inside, inside])


@pytest.mark.parametrize("stride", [2, 4, 8, 16, 32])
def test_with_replicated_borders_it_is_interpolation_up_to_the_edges(stride: int) -> None:
    layer = upsampling(3, cornered(stride), border=Border.replicate)
    scores = torch.randn(2, 3, 5, 6)
    expected = F.interpolate(scores, scale_factor=stride, mode="bilinear", align_corners=False)
    torch.testing.assert_close(layer(scores), expected)


@pytest.mark.parametrize("stride", [2, 4, 8, 16, 32])
def test_between_centred_cells_it_is_interpolation_that_keeps_the_corners(stride: int) -> None:
    layer = upsampling(3, Grid(stride, 0.0))
    scores = torch.randn(2, 3, 5, 6)
    size = (4 * stride + 1, 5 * stride + 1)  # from the first centre to the last
    expected = F.interpolate(scores, size, mode="bilinear", align_corners=True)
    upsampled = layer(scores)
    assert upsampled.shape[-2:] == (5 * stride, 6 * stride)
    torch.testing.assert_close(upsampled[..., : size[0], : size[1]], expected)


@pytest.mark.parametrize("border", list(Border), ids=str)
def test_between_equal_grids_it_is_nothing_but_a_bias(border: Border) -> None:
    layer = upsampling(3, Grid(8, 0.0), Grid(8, 0.0), border=border)
    scores = torch.randn(2, 3, 5, 6)
    assert torch.equal(layer(scores), scores)


FINER = [
    # source, target, kernel, padding, first cell
    (cornered(32), PIXELS, 64, 16, 0),  # the chapter's
    (cornered(32), cornered(16), 4, 1, 0),
    (Grid(32, 0.0), PIXELS, 63, 31, 0),
    (Grid(32, 0.0), Grid(16, 0.0), 3, 1, 0),
    (Grid(32, 12.5), PIXELS, 64, 19, 0),  # the papers'
    (Grid(32, 12.5), Grid(16, -91.5), 4, 0, 5),
    (Grid(8, 0.0), Grid(8, 0.0), 1, 0, 0),
]


@pytest.mark.parametrize(("source", "target", "kernel", "padding", "first"), FINER)
def test_kernel_and_padding_follow_from_where_the_cells_lie(
    source: Grid, target: Grid, kernel: int, padding: int, first: int
) -> None:
    layer = upsampling(1, source, target)
    assert (layer.kernel_size, layer.padding, layer.first) == ((kernel, kernel), (padding, padding), first)


@pytest.mark.parametrize("border", list(Border), ids=str)
@pytest.mark.parametrize(("source", "target"), [case[:2] for case in FINER])
def test_the_kernels_centre_falls_on_the_cell_that_it_spreads(source: Grid, target: Grid, border: Border) -> None:
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
def test_scores_fade_at_the_border_unless_it_is_replicated(border: Border, edge: float, corner: float) -> None:
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
def test_layer_has_the_chapters_geometry_and_a_bias_of_zero(init: Init) -> None:
    layer = upsampling(21, cornered(32), init=init)
    assert (layer.kernel_size, layer.stride, layer.padding) == ((64, 64), (32, 32), (16, 16))
    assert layer.output_padding == (0, 0)
    assert layer.bias is not None
    assert not layer.bias.any()


@pytest.mark.parametrize("trainable", [True, False])
def test_frozen_means_weight_and_bias(*, trainable: bool) -> None:
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
def test_the_subpixel_form_is_the_transposed_convolution(source: Grid, target: Grid, border: Border) -> None:
    """Outputs and all gradients, in float64, where nothing but the order of sums differs."""
    torch.manual_seed(0)
    layer = upsampling(3, source, target, border=border, init=Init.xavier).double()
    found = []
    for layer.algorithm in (Algorithm.transposed, Algorithm.subpixel):
        scores = torch.linspace(-1, 1, 2 * 3 * 4 * 5, dtype=torch.float64).view(2, 3, 4, 5).cos().requires_grad_()
        logits = layer(scores)
        weighted = (logits * torch.arange(logits.numel()).view(logits.shape).sin()).sum()
        found.append([logits, *torch.autograd.grad(weighted, [scores, *layer.parameters()])])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_the_algorithm_is_no_part_of_the_weights_and_large_factors_take_the_subpixel_form_on_a_cpu() -> None:
    large, small = upsampling(6, cornered(8)), upsampling(6, cornered(32), cornered(16))
    assert set(large.state_dict()) == {"weight", "bias"}
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert [layer.chosen(cpu) for layer in (large, small)] == [Algorithm.subpixel, Algorithm.transposed]
    assert large.chosen(gpu) is Algorithm.transposed
    large.algorithm = Algorithm.transposed
    assert large.chosen(cpu) is Algorithm.transposed


def test_the_subpixel_form_computes_in_the_precision_of_autocast() -> None:
    layer = upsampling(3, cornered(8))
    scores, found = torch.randn(2, 3, 4, 5), []
    for layer.algorithm in (Algorithm.transposed, Algorithm.subpixel):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = layer(scores)
        found.append((logits.dtype, torch.autograd.grad(logits.float().square().sum(), layer.weight)[0]))
    assert found[0][0] is found[1][0] is torch.bfloat16
    torch.testing.assert_close(found[0][1], found[1][1], rtol=0.05, atol=0.05 * float(found[0][1].abs().max()))

"""What a user relies on: `bilinear` interpolates each class alone, `xavier` is Glorot's, frozen is frozen."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from fcn.config import Init
from fcn.models.upsampling import bilinear_kernel, upsampling


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
    layer = upsampling(3, stride=stride, init=Init.bilinear, trainable=True)
    scores = torch.randn(2, 3, 5, 6)
    expected = F.interpolate(scores, scale_factor=stride, mode="bilinear", align_corners=False)
    upsampled = layer(scores)
    assert upsampled.shape == expected.shape
    inside = slice(stride // 2, -(stride // 2))
    torch.testing.assert_close(upsampled[..., inside, inside], expected[..., inside, inside])


def test_bilinear_does_not_mix_classes() -> None:
    layer = upsampling(4, stride=8, init=Init.bilinear, trainable=True)
    scores = torch.zeros(1, 4, 3, 3)
    scores[:, 2] = torch.rand(3, 3) + 1
    upsampled = layer(scores)
    assert (upsampled[:, 2] > 0).all()
    assert not upsampled[:, [0, 1, 3]].any()


def test_xavier_is_glorot_uniform() -> None:
    torch.manual_seed(0)
    weight = upsampling(21, stride=32, init=Init.xavier, trainable=True).weight
    bound = math.sqrt(6 / (21 * 64 * 64 + 21 * 64 * 64))
    assert weight.shape == (21, 21, 64, 64)
    assert 0.999 * bound < weight.abs().max() <= bound
    assert weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.01)
    assert weight.mean().item() == pytest.approx(0, abs=0.01 * bound)


@pytest.mark.parametrize("init", list(Init))
def test_layer_has_the_chapters_geometry_and_a_bias_of_zero(init: Init) -> None:
    layer = upsampling(21, stride=32, init=init, trainable=True)
    assert (layer.kernel_size, layer.stride, layer.padding) == ((64, 64), (32, 32), (16, 16))
    assert layer.bias is not None
    assert not layer.bias.any()


@pytest.mark.parametrize("trainable", [True, False])
def test_frozen_means_weight_and_bias(*, trainable: bool) -> None:
    layer = upsampling(2, stride=4, init=Init.bilinear, trainable=trainable)
    assert [parameter.requires_grad for parameter in layer.parameters()] == [trainable, trainable]

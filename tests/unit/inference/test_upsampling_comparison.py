"""Comparison of a transposed convolution with interpolation, and its figure."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from fcn.inference.upsampling_comparison import (
    _largest_difference,
    compare_upsampling,
    describe_upsampling,
    draw_upsampling_comparison,
    transposed_convolution,
)


@pytest.mark.parametrize("factor", [2, 3, 4, 5, 7, 8, 31, 32, 63, 64])
def test_transposed_convolution_interpolates_inside_and_darkens_the_border(factor):
    maps = 1 + torch.rand(2, 1, 5, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    layer = transposed_convolution(factor).double()
    actual, expected = layer(maps), F.interpolate(maps, scale_factor=factor, mode="bilinear", align_corners=False)
    border = factor // 2
    inside = (..., slice(border, -border), slice(border, -border))
    # The kernel is computed in float32.
    torch.testing.assert_close(actual[inside], expected[inside], rtol=1e-6, atol=1e-6)
    shares = actual / expected
    shares[inside] = 0
    assert shares[..., 0, 0].min() > 0.25
    assert shares.max() < 1


def test_even_factor_gives_the_layer_of_d2l():
    layer = transposed_convolution(2)
    assert (layer.kernel_size, layer.stride, layer.padding) == ((4, 4), (2, 2), (1, 1))


def noise(size):
    """Return reproducible noise without black pixels, which no padding can darken."""
    width, height = size
    return Image.fromarray(np.random.default_rng(0).integers(60, 200, (height, width, 3), np.uint8))


@pytest.mark.parametrize(("size", "factor"), [((1, 1), 2), ((1, 1), 3), ((3, 200), 2), ((40, 30), 32)])
def test_images_of_any_size_are_compared(size, factor):
    compared = compare_upsampling(noise(size), factor)
    assert compared.transposed.shape == compared.interpolated.shape == (3, size[1] * factor, size[0] * factor)
    inside, border = compared.extremes()
    assert 0.1 < border < 0.75
    if size == (1, 1) and factor == 2:
        assert np.isnan(inside)
        assert describe_upsampling(compared, factor)[1] == "inside: the border is the whole image"
    else:
        assert inside < 1e-4


@pytest.mark.parametrize(("size", "factor"), [((1, 1), 2), ((200, 3), 5)])
def test_figure_has_a_white_margin_and_no_warning(size, factor, recwarn):
    compared = compare_upsampling(noise(size), factor)
    pixels = np.asarray(draw_upsampling_comparison(compared, factor))
    assert all((edge == 255).all() for edge in (pixels[:4], pixels[-4:], pixels[:, :4], pixels[:, -4:]))
    assert not list(recwarn)


def test_detail_contains_the_largest_difference():
    difference = torch.zeros(50, 80)
    for row, column in ((0, 0), (49, 79), (20, 40), (0, 79)):
        difference[row, column] += 1 + row + column
        box = _largest_difference(difference, side=16)
        assert (box.height, box.width) == (16, 16)
        assert 0 <= box.top <= row < box.top + 16 <= 50
        assert 0 <= box.left <= column < box.left + 16 <= 80
        difference[row, column] = 0
    assert _largest_difference(difference[:3], side=16) == (0, 0, 3, 16)

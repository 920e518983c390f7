"""Boundary bands and their confusion matrices, compared with the definition pixel by pixel."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fcn.evaluation.boundary_metrics import boundary_bands, boundary_confusions
from fcn.visualization.boundary_curve import draw_boundary_curve

VOID = 255


def band_by_definition(mask: np.ndarray, width: int) -> np.ndarray:
    """Return the non-void pixels with a pixel of another label at most `width` rows and columns away."""
    height, length = mask.shape
    band = np.zeros(mask.shape, bool)
    for y in range(height):
        for x in range(length):
            window = mask[max(0, y - width) : y + width + 1, max(0, x - width) : x + width + 1]
            band[y, x] = mask[y, x] != VOID and (window != mask[y, x]).any()
    return band


@st.composite
def masks(draw) -> np.ndarray:
    """Draw small masks, mostly of one label: with many labels every pixel would be in every band."""
    height, width = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    mask = np.full((height, width), draw(st.sampled_from([0, 1, 254, VOID])), np.uint8)
    for _ in range(draw(st.integers(0, 3))):
        y, x = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
        mask[y : y + draw(st.integers(1, 3)), x : x + draw(st.integers(1, 3))] = draw(st.sampled_from([0, 2, VOID]))
    return mask


@settings(max_examples=60, deadline=None)
@given(masks(), st.lists(st.integers(1, 12), unique=True, max_size=4).map(sorted))
def test_bands_follow_the_definition(mask, widths):
    bands = boundary_bands(torch.from_numpy(mask), widths)
    assert (bands.dtype, bands.shape) == (torch.bool, (len(widths), *mask.shape))
    for width, band in zip(widths, bands, strict=True):
        np.testing.assert_array_equal(band, band_by_definition(mask, width))


def test_distance_is_chessboard_distance_and_void_counts_as_a_label():
    mask = torch.zeros(5, 6, dtype=torch.uint8)
    mask[0, 0], mask[4, 5] = 1, VOID
    expected = [
        [1, 1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 0, 1, 1],
        [0, 0, 0, 0, 1, 0],
    ]
    assert boundary_bands(mask, [1])[0].int().tolist() == expected


@settings(max_examples=30, deadline=None)
@given(masks(), st.integers(0, 2**32 - 1))
def test_confusion_matrices_count_the_pixels_of_each_band(mask, seed):
    target = np.where(mask == 254, 1, mask).astype(np.uint8)
    prediction = np.random.default_rng(seed).integers(0, 3, mask.shape)
    expected = np.zeros((2, 3, 3), np.int64)
    for number, width in enumerate((1, 3)):
        for place in zip(*np.nonzero(band_by_definition(target, width)), strict=True):
            expected[number, target[place], prediction[place]] += 1
    matrices = boundary_confusions(torch.from_numpy(prediction), torch.from_numpy(target), [1, 3], num_classes=3)
    assert matrices.dtype == torch.int64
    np.testing.assert_array_equal(matrices, expected)


def test_no_widths_give_no_bands():
    mask = torch.zeros(2, 3, dtype=torch.uint8)
    assert boundary_bands(mask, []).shape == (0, 2, 3)
    assert boundary_confusions(mask, mask, [], num_classes=3).shape == (0, 3, 3)


@pytest.mark.parametrize(("widths", "remedy"), [([0, 1], r"\[1\]"), ([2, 1], r"\[1, 2\]"), ([1, 1], r"\[1\]")])
def test_widths_that_do_not_increase_are_rejected(widths, remedy):
    with pytest.raises(ValueError, match=rf"^widths \(=.*\) must rise from 1 or more; use {remedy}$"):
        boundary_bands(torch.zeros(2, 2, dtype=torch.uint8), widths)


@pytest.mark.parametrize("values", [[0.2, 0.5], [float("nan"), 0.5], [float("nan"), float("nan")]])
def test_curve_is_drawn_also_without_a_score(values):
    picture = draw_boundary_curve([1, 4], values, whole=values[-1])
    assert picture.mode == "RGB"
    blue = (np.asarray(picture) == (0x21, 0x71, 0xB5)).all(axis=-1).sum()  # the curve and its legend entry
    assert blue > 100

"""Class colours and overlays."""

import numpy as np
import pytest

from fcn.visualization.masks import colorize, overlay
from tests.pictures import KNOWN_COLORS, VOID_COLOR, filled, stripes


def test_class_colors_are_those_of_the_voc_devkit():
    mask = np.array([[*KNOWN_COLORS, 255]], np.uint8)
    np.testing.assert_array_equal(colorize(mask), [[*KNOWN_COLORS.values(), VOID_COLOR]])
    assert colorize(mask).dtype == np.uint8


def test_overlay_blends_classes_and_keeps_background_and_void():
    image = filled(5, 12, (100, 50, 200))
    blended = overlay(image, stripes(5, 12, 0, 15, 255))
    np.testing.assert_array_equal(blended[:, :4], image[:, :4])
    np.testing.assert_array_equal(blended[:, 8:], image[:, 8:])
    # Inside: half of (100, 50, 200) and half of person's (192, 128, 128); at the boundary person's alone.
    np.testing.assert_array_equal(blended[:, 5:7], filled(5, 2, (146, 89, 164)))
    np.testing.assert_array_equal(blended[:, [4, 7]], filled(5, 2, KNOWN_COLORS[15]))


def test_overlay_marks_horizontal_boundaries():
    mask = stripes(5, 12, 0, 15, 0).T.copy()
    blended = overlay(filled(12, 5, (100, 50, 200)), mask, alpha=0.25)
    np.testing.assert_array_equal(blended[[4, 7]], filled(2, 5, (146, 89, 164)))
    np.testing.assert_array_equal(blended[5:7], filled(2, 5, (123, 70, 182)))  # a quarter of person


def test_overlay_with_alpha_zero_and_one():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (9, 11, 3), np.uint8)
    mask = rng.integers(1, 21, (9, 11), np.uint8)
    np.testing.assert_array_equal(overlay(image, mask, alpha=0), image)
    np.testing.assert_array_equal(overlay(image, mask, alpha=1), colorize(mask))


@pytest.mark.parametrize("alpha", [-0.1, 1.5, float("nan")])
def test_overlay_refuses_alpha_out_of_range(alpha):
    with pytest.raises(ValueError, match=r"alpha \(=.*\) must be between 0 and 1"):
        overlay(filled(2, 2), stripes(2, 2, 0), alpha=alpha)


def test_overlay_requires_a_mask_of_the_images_size():
    with pytest.raises(ValueError, match=r"mask \(shape \(3, 2\)\) must have the image's height and width \(2, 3\)"):
        overlay(filled(2, 3), stripes(3, 2, 0))
    with pytest.raises(ValueError, match=r"image \(shape \(2, 3\)\) must be \[H, W, 3\]; convert it to RGB"):
        overlay(stripes(2, 3, 0), stripes(2, 3, 0))

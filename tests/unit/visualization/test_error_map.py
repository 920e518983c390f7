"""Error map: colours of wrong, void and correct pixels."""

import numpy as np
import pytest

from fcn.visualization.error_map import ERROR_COLOR, error_map
from fcn.visualization.masks import colorize
from tests.pictures import VOID_COLOR, filled, stripes


def test_error_map_shows_wrong_pixels_void_and_the_pale_image():
    image = np.concatenate([filled(1, 2, (0, 0, 0)), filled(1, 2, (255, 255, 255)), filled(1, 2, (0, 255, 0))], axis=1)
    target = np.array([[0, 15, 0, 15, 255, 2]], np.uint8)
    prediction = np.array([[0, 15, 15, 7, 15, 2]], np.uint8)
    errors = error_map(image, target, prediction)
    assert errors.dtype == np.uint8
    black, green = errors[0, 0].tolist(), errors[0, 5].tolist()
    np.testing.assert_array_equal(errors[0], [black, black, ERROR_COLOR, ERROR_COLOR, VOID_COLOR, green])
    assert len(set(black)) == len(set(green)) == 1  # grey
    assert black[0] < green[0] < 255


def test_correct_pixels_of_a_white_image_stay_white():
    mask = stripes(3, 4, 0, 5)
    np.testing.assert_array_equal(error_map(filled(3, 4, (255, 255, 255)), mask, mask), filled(3, 4, (255, 255, 255)))


def test_error_color_differs_from_all_class_colors():
    colors = colorize(np.arange(256, dtype=np.uint8)[None])[0]
    assert len({*map(tuple, colors.tolist()), ERROR_COLOR}) == 257


def test_errors_stand_out_by_luminance():
    """Contrast (WCAG 2) of errors against the darkest correct pixel and void is at least 2 to 1."""
    mask = np.zeros((1, 1), np.uint8)
    darkest = error_map(filled(1, 1, (0, 0, 0)), mask, mask)[0, 0]
    for color in (darkest, np.array(VOID_COLOR)):
        assert (luminance(color) + 0.05) / (luminance(np.array(ERROR_COLOR)) + 0.05) > 2


def luminance(color):
    shares = color / 255
    return np.where(shares <= 0.03928, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]


@pytest.mark.parametrize("name", ["target", "prediction"])
def test_error_map_requires_equal_sizes(name):
    masks = {"target": stripes(2, 3, 0), "prediction": stripes(2, 3, 0), name: stripes(3, 2, 0)}
    with pytest.raises(ValueError, match=rf"{name} \(shape \(3, 2\)\) must have the image's height and width \(2, 3\)"):
        error_map(filled(2, 3), **masks)

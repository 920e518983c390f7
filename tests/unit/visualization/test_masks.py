"""Class colours, overlays and error maps."""

import numpy as np

from fcn.visualization.masks import ERROR_COLOR, colorize, error_map, overlay
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
    across = overlay(filled(12, 5, (100, 50, 200)), stripes(5, 12, 0, 15, 255).T.copy())
    np.testing.assert_array_equal(across, blended.swapaxes(0, 1))


def test_half_values_are_rounded_to_even():
    image = np.arange(256, dtype=np.uint8).repeat(3).reshape(1, 256, 3).repeat(3, axis=0)
    blended = overlay(image, np.full((3, 256), 15, np.uint8))
    expected = [[round((value + channel) / 2) for channel in KNOWN_COLORS[15]] for value in range(256)]
    np.testing.assert_array_equal(blended[1], expected)


def test_error_map_shows_wrong_pixels_void_and_the_pale_image():
    white, black, green = (255, 255, 255), (0, 0, 0), (0, 255, 0)
    image = np.array([[black, black, white, white, white, green, white]], np.uint8)
    target = np.array([[0, 15, 0, 15, 255, 2, 1]], np.uint8)
    prediction = np.array([[0, 15, 15, 7, 15, 2, 1]], np.uint8)
    errors = error_map(image, target, prediction)
    assert errors.dtype == np.uint8
    pale_black, pale_green = errors[0, 0].tolist(), errors[0, 5].tolist()
    expected = [pale_black, pale_black, ERROR_COLOR, ERROR_COLOR, VOID_COLOR, pale_green, white]
    np.testing.assert_array_equal(errors[0], expected)
    assert len(set(pale_black)) == len(set(pale_green)) == 1  # grey
    assert pale_black[0] < pale_green[0] < 255


def test_error_color_differs_from_all_class_colors():
    colors = colorize(np.arange(256, dtype=np.uint8)[None])[0]
    assert len({*map(tuple, colors.tolist()), ERROR_COLOR}) == 257


def test_errors_stand_out_by_luminance():
    """Contrast (WCAG 2) of errors against the darkest correct pixel and void is at least 2 to 1."""

    def luminance(color):
        shares = np.array(color) / 255
        linear = np.where(shares <= 0.03928, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4)
        return linear @ [0.2126, 0.7152, 0.0722]

    mask = np.zeros((1, 1), np.uint8)
    darkest = error_map(filled(1, 1, (0, 0, 0)), mask, mask)[0, 0]
    for color in (darkest, VOID_COLOR):
        assert (luminance(color) + 0.05) / (luminance(ERROR_COLOR) + 0.05) > 2

import numpy as np
import pytest

from fcn.config import VOC_CLASSES
from fcn.visualization import ERROR_COLOR, colorize, error_map, overlay, panels
from tests.pictures import KNOWN_COLORS, VOID_COLOR, filled, stripes


def test_known_classes_have_the_devkits_colors():
    mask = np.array([[*KNOWN_COLORS, 255]], np.uint8)
    np.testing.assert_array_equal(colorize(mask), [[*KNOWN_COLORS.values(), VOID_COLOR]])
    assert colorize(mask).dtype == np.uint8


def test_colors_tell_all_indices_apart():
    colors = colorize(np.arange(256, dtype=np.uint8)[None])[0]
    assert len({*map(tuple, colors.tolist()), ERROR_COLOR}) == 257


def test_overlay_blends_classes_and_leaves_background_and_void():
    image = filled(5, 12, (100, 50, 200))
    mask = stripes(5, 12, 0, 15, 255)
    blended = overlay(image, mask)
    np.testing.assert_array_equal(blended[:, :4], image[:, :4])
    np.testing.assert_array_equal(blended[:, 8:], image[:, 8:])
    # Inside: half of (100, 50, 200) and half of person's (192, 128, 128); at the boundary person's alone.
    np.testing.assert_array_equal(blended[:, 5:7], filled(5, 2, (146, 89, 164)))
    np.testing.assert_array_equal(blended[:, [4, 7]], filled(5, 2, KNOWN_COLORS[15]))


def test_overlay_marks_horizontal_boundaries_too():
    mask = stripes(5, 12, 0, 15, 0).T.copy()
    blended = overlay(filled(12, 5, (100, 50, 200)), mask, alpha=0.25)
    np.testing.assert_array_equal(blended[[4, 7]], filled(2, 5, (146, 89, 164)))
    np.testing.assert_array_equal(blended[5:7], filled(2, 5, (123, 70, 182)))  # a quarter of person


def test_overlay_reaches_from_the_image_to_the_mask():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (9, 11, 3), np.uint8)
    mask = rng.integers(1, 21, (9, 11), np.uint8)
    np.testing.assert_array_equal(overlay(image, mask, alpha=0), image)
    np.testing.assert_array_equal(overlay(image, mask, alpha=1), colorize(mask))


@pytest.mark.parametrize("alpha", [-0.1, 1.5, float("nan")])
def test_overlay_refuses_an_impossible_opacity(alpha):
    with pytest.raises(ValueError, match=r"alpha \(=.*\) must be between 0 and 1; 0\.5"):
        overlay(filled(2, 2), stripes(2, 2, 0), alpha=alpha)


def test_sizes_must_agree():
    with pytest.raises(ValueError, match=r"mask \(shape \(3, 2\)\) must have the image's height and width \(2, 3\)"):
        overlay(filled(2, 3), stripes(3, 2, 0))
    with pytest.raises(ValueError, match=r"image \(shape \(2, 3\)\) must be \[H, W, 3\]; convert it to RGB"):
        overlay(stripes(2, 3, 0), stripes(2, 3, 0))
    with pytest.raises(ValueError, match=r"target \(shape"):
        error_map(filled(2, 3), stripes(3, 2, 0), stripes(2, 3, 0))
    with pytest.raises(ValueError, match=r"prediction \(shape"):
        error_map(filled(2, 3), stripes(2, 3, 0), stripes(3, 2, 0))
    with pytest.raises(ValueError, match=r"target \(shape"):
        panels([(filled(2, 3), stripes(3, 2, 0), stripes(2, 3, 0))], VOC_CLASSES)
    with pytest.raises(ValueError, match=r"prediction \(shape"):
        panels([(filled(2, 3), stripes(2, 3, 0), stripes(3, 2, 0))], VOC_CLASSES)


def test_the_error_map_shows_wrong_pixels_void_and_the_pale_image():
    image = np.concatenate([filled(1, 2, (0, 0, 0)), filled(1, 2, (255, 255, 255)), filled(1, 2, (0, 255, 0))], axis=1)
    target = np.array([[0, 15, 0, 15, 255, 2]], np.uint8)
    prediction = np.array([[0, 15, 15, 7, 15, 2]], np.uint8)
    errors = error_map(image, target, prediction)
    assert errors.dtype == np.uint8
    black, green = errors[0, 0].tolist(), errors[0, 5].tolist()
    np.testing.assert_array_equal(errors[0], [black, black, ERROR_COLOR, ERROR_COLOR, VOID_COLOR, green])
    assert len(set(black)) == len(set(green)) == 1  # grey
    assert black[0] < green[0] < 255


def test_a_white_image_stays_white_where_the_prediction_is_right():
    mask = stripes(3, 4, 0, 5)
    np.testing.assert_array_equal(error_map(filled(3, 4, (255, 255, 255)), mask, mask), filled(3, 4, (255, 255, 255)))


def test_errors_are_seen_without_telling_hues_apart():
    """Relative luminance (WCAG 2): errors stand out from the palest and the darkest image, at least 2 to 1."""
    mask = np.zeros((1, 1), np.uint8)
    darkest = error_map(filled(1, 1, (0, 0, 0)), mask, mask)[0, 0]
    for color in (darkest, np.array(VOID_COLOR)):
        assert (luminance(color) + 0.05) / (luminance(np.array(ERROR_COLOR)) + 0.05) > 2


def luminance(color):
    shares = color / 255
    return np.where(shares <= 0.03928, shares / 12.92, ((shares + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]

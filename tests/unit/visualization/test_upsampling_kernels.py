"""Figure of upsampling kernels, and the change per pair of classes."""

import numpy as np
import pytest
from PIL import Image

from fcn.config import VOC_CLASSES
from fcn.models.upsampling import bilinear_kernel
from fcn.visualization.upsampling_kernels import draw_kernels, pair_norms
from tests.pictures import has_white_border

CLASSES = ["background", "cat", "$dog$"]


def layer(size, *, changed=()):
    """Bilinear layer of three classes; multiples of the bilinear kernel are added to the kernels of some pairs."""
    weight, kernel = bilinear_kernel(3, size).numpy(), bilinear_kernel(1, size)[0, 0].numpy()
    for source, target, factor in changed:
        weight[source, target] += factor * kernel
    return weight, kernel


@pytest.mark.parametrize("size", [4, 63])
def test_pair_norms_are_relative_to_the_bilinear_kernel(size):
    norms = pair_norms(*layer(size, changed=[(0, 1, 0.5), (2, 2, -1.0), (1, 0, -0.25)]))
    np.testing.assert_allclose(norms, [[0, 0.5, 0], [0.25, 0, 0], [0, 0, 1]], atol=1e-7)


def test_root_mean_square_of_pair_norms_is_the_drift():
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(3, 3, 16, 16)).astype(np.float32)
    bilinear = bilinear_kernel(3, 16).numpy()
    norms = pair_norms(weight, bilinear[0, 0])
    drift = np.linalg.norm(weight - bilinear) / np.linalg.norm(bilinear)
    assert np.sqrt((norms**2).sum() / 3) == pytest.approx(drift, rel=1e-6)


def image_at(sheet: Image.Image, left: float, row: int = 0) -> np.ndarray:
    """Crop the square image that begins `left` inches from the left edge in the given row of layers."""
    side, height, bottom = 270, 350, 45
    top = (row + 1) * height - bottom - side
    return np.asarray(sheet)[top + 2 : top + side - 2, round(100 * left) + 2 : round(100 * left) + side - 2]


def test_changed_kernels_are_visible():
    fresh, trained = layer(4), layer(4, changed=[(0, 2, 0.5), (0, 0, 0.3), (1, 1, 0.3), (2, 2, 0.3)])
    sheet = draw_kernels({"skip_upscores.0": fresh, "upscore": trained}, CLASSES)
    assert sheet.size == (1320, 700)
    difference, pairs = image_at(sheet, 6.7), image_at(sheet, 10.3)
    assert (np.ptp(difference, axis=(0, 1)) == 0).all()  # unchanged: uniform neutral colour
    assert (difference[0, 0] > 240).all()
    assert (np.ptp(pairs, axis=(0, 1)) == 0).all()
    red, _, blue = np.moveaxis(image_at(sheet, 6.7, row=1)[120:150, 120:150].astype(int), 2, 0)
    assert (red > blue).all()  # the middle has increased
    pairs = image_at(sheet, 10.3, row=1)[45::90, 45::90].astype(int).sum(axis=2)
    assert np.unravel_index(pairs.argmin(), (3, 3)) == (0, 2)  # darkest: from background to dog
    np.testing.assert_array_equal(np.argwhere(pairs < pairs[1, 0]), [[0, 0], [0, 2], [1, 1], [2, 2]])


def test_kernels_of_voc_fit_into_the_image():
    rng = np.random.default_rng(0)
    kernel = bilinear_kernel(1, 16)[0, 0].numpy()
    weight = (bilinear_kernel(21, 16).numpy() + rng.normal(0, 0.01, (21, 21, 16, 16))).astype(np.float32)
    figure = draw_kernels({"upscore": (weight, kernel)}, VOC_CLASSES)
    assert figure.size == (1320, 350)
    assert has_white_border(figure, 5)

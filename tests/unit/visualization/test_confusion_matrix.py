"""Confusion matrix figure: shares, colours and bars."""

import functools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from fcn.config import VOC_CLASSES
from fcn.evaluation.scores import class_counts
from fcn.visualization import confusion_matrix
from fcn.visualization.confusion_matrix import row_shares
from tests.pictures import boxes, has_white_border

BAR_BLUE = (66, 146, 198)


def draw_confusion_matrix(confusion, classes):
    return confusion_matrix.draw_confusion_matrix(confusion, classes, class_counts(confusion).iou())


def test_row_shares_are_shares_of_the_target_classes():
    shares = row_shares(np.array([[8, 2, 0], [1, 1, 2], [0, 0, 0]]))
    np.testing.assert_allclose(shares, [[0.8, 0.2, 0], [0.25, 0.25, 0.5], [np.nan] * 3])
    assert shares.dtype == np.float64


def cell_colors(figure, count):
    """Colour near the top left corner of each cell of the matrix."""
    pixels = np.asarray(figure)
    colored = (pixels.max(axis=2).astype(int) - pixels.min(axis=2)) > 4
    area = boxes(Image.fromarray(np.repeat(colored[..., None], 3, axis=2).astype(np.uint8) * 255), (255,) * 3)
    top, bottom = area[0][1], area[-1][3]
    left, right = area[0][0], int(np.flatnonzero(np.diff(colored[top : top + 5].any(axis=0)))[2 * count - 1])
    rows = top + (bottom - top) * (np.arange(count) + 0.15) / count
    columns = left + (right - left) * (np.arange(count) + 0.15) / count
    return pixels[np.ix_(rows.astype(int), columns.astype(int))]


def test_cells_are_darker_where_the_share_is_larger():
    shares = np.array([[70, 20, 10], [5, 75, 20], [40, 2, 58]])
    counts = shares * np.array([[1000], [10], [1]])  # a rare class is as dark as a frequent one
    brightness = cell_colors(draw_confusion_matrix(counts, ["background", "cat", "dog"]), 3).sum(axis=2)
    np.testing.assert_array_equal(np.argsort(-brightness, axis=None), np.argsort(shares, axis=None, kind="stable"))


def test_bars_are_proportional_to_iou():
    figure = draw_confusion_matrix(np.array([[300, 0], [100, 100]]), ["background", "cat"])  # IoU 0.75 and 0.5
    right = figure.crop((round(0.6 * figure.width), 0, *figure.size))
    first, second = boxes(right, BAR_BLUE)
    assert (first[2] - first[0]) / (second[2] - second[0]) == pytest.approx(1.5, abs=0.05)
    assert first[0] == second[0]


@pytest.mark.parametrize("count", [2, 7, 21])
def test_figure_size_fits_a_screen(count):
    confusion = np.random.default_rng(0).integers(0, 1000, (count, count))
    figure = draw_confusion_matrix(confusion, VOC_CLASSES[:count])
    assert figure.mode == "RGB"
    assert 500 <= figure.width <= 1200
    assert 350 <= figure.height <= 1200
    assert has_white_border(figure, 5)


def test_missing_classes_and_special_names_draw_without_warnings(recwarn):
    names = ["background", "$_{$", "a class with a rather long name"]
    draw_confusion_matrix(np.zeros((3, 3), np.int64), names)
    draw_confusion_matrix(np.array([[5, 1, 0], [0, 0, 0], [0, 0, 0]]), names)
    assert not list(recwarn)


def test_figures_drawn_in_threads_equal_those_drawn_in_sequence():
    matrices = [np.random.default_rng(seed).integers(0, 1000, (3, 3)) for seed in range(3)]
    draw = functools.partial(draw_confusion_matrix, classes=["background", "cat", "dog"])
    with ThreadPoolExecutor(3) as pool:
        in_threads = [figure.tobytes() for figure in pool.map(draw, matrices)]
    assert in_threads == [draw(matrix).tobytes() for matrix in matrices]

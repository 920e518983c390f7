from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from fcn.config import VOC_CLASSES
from fcn.visualization import confusion_figure, row_shares
from tests.pictures import boxes

BAR_BLUE = (66, 146, 198)


def test_row_shares_are_the_shares_of_the_target_classes():
    confusion = np.array([[8, 2, 0], [1, 1, 2], [0, 0, 0]])
    shares = row_shares(confusion)
    np.testing.assert_allclose(shares[:2], [[0.8, 0.2, 0], [0.25, 0.25, 0.5]])
    assert np.isnan(shares[2]).all()
    assert shares.dtype == np.float64


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.int64, (4, 4), elements=st.integers(0, 2**53)))
def test_row_shares_sum_to_one_where_the_class_has_pixels(confusion):
    sums = row_shares(confusion).sum(axis=1)
    np.testing.assert_allclose(sums[confusion.any(axis=1)], 1)
    assert np.isnan(sums[~confusion.any(axis=1)]).all()


def matrix_cells(figure, count):
    """Colour of a spot near the left top corner of each cell: the matrix begins below the title."""
    pixels = np.asarray(figure)
    colored = (pixels.max(axis=2).astype(int) - pixels.min(axis=2)) > 4
    area = boxes(Image.fromarray(np.repeat(colored[..., None], 3, axis=2).astype(np.uint8) * 255), (255,) * 3)
    top, bottom = area[0][1], area[-1][3]
    left, right = area[0][0], int(np.flatnonzero(np.diff(colored[top : top + 5].any(axis=0)))[2 * count - 1])
    rows = top + (bottom - top) * (np.arange(count) + 0.15) / count
    columns = left + (right - left) * (np.arange(count) + 0.15) / count
    return pixels[np.ix_(rows.astype(int), columns.astype(int))]


def test_the_figure_is_darker_where_the_share_is_larger():
    shares = np.array([[70, 20, 10], [5, 75, 20], [40, 2, 58]])
    counts = shares * np.array([[1000], [10], [1]])  # a rare class is as dark as a frequent one
    brightness = matrix_cells(confusion_figure(counts, ["background", "cat", "dog"]), 3).sum(axis=2)
    np.testing.assert_array_equal(np.argsort(-brightness, axis=None), np.argsort(shares, axis=None, kind="stable"))


def test_the_bars_are_as_long_as_the_ious():
    figure = confusion_figure(np.array([[300, 0], [100, 100]]), ["background", "cat"])  # IoU 0.75 and 0.5
    right = figure.crop((round(0.6 * figure.width), 0, *figure.size))
    first, second = boxes(right, BAR_BLUE)
    assert (first[2] - first[0]) / (second[2] - second[0]) == pytest.approx(1.5, abs=0.05)
    assert first[0] == second[0]


@pytest.mark.parametrize("count", [2, 7, 21])
def test_the_figure_has_a_size_for_screens(count):
    confusion = np.random.default_rng(0).integers(0, 1000, (count, count))
    figure = confusion_figure(confusion, VOC_CLASSES[:count])
    assert figure.mode == "RGB"
    assert 500 <= figure.width <= 1200
    assert 350 <= figure.height <= 1200
    pixels = np.asarray(figure)
    edges = [pixels[:5], pixels[-5:], pixels[:, :5], pixels[:, -5:]]  # nothing is cut off
    assert all((edge == 255).all() for edge in edges)


def test_the_figure_draws_classes_that_never_occur_and_any_name(recwarn):
    names = ["background", "$_{$", "a class with a rather long name"]
    confusion_figure(np.zeros((3, 3), np.int64), names)
    confusion_figure(np.array([[5, 1, 0], [0, 0, 0], [0, 0, 0]]), names)
    assert not list(recwarn)


def test_figures_drawn_in_threads_are_those_drawn_one_by_one():
    matrices = [np.random.default_rng(seed).integers(0, 1000, (3, 3)) for seed in range(3)]
    names = ["background", "cat", "dog"]
    alone = [confusion_figure(matrix, names).tobytes() for matrix in matrices]
    with ThreadPoolExecutor(3) as pool:
        together = [figure.tobytes() for figure in pool.map(lambda matrix: confusion_figure(matrix, names), matrices)]
    assert together == alone


def test_the_figure_needs_a_name_for_every_class():
    with pytest.raises(ValueError, match=r"confusion \(shape \(2, 2\)\) must be \[3, 3\]"):
        confusion_figure(np.zeros((2, 2), np.int64), ["background", "cat", "dog"])

"""Pictures of a search: what is drawn stands where it belongs."""

import numpy as np
import pytest

from fcn.visualization import Ended, history_figure, importance_figure

BLUE, RED = (31, 119, 180), (214, 39, 40)


def columns(image, color) -> np.ndarray:
    """Columns that hold pixels of a colour below the legend."""
    return np.flatnonzero((np.asarray(image)[60:] == color).all(axis=2).any(axis=0))


def test_finished_trials_are_in_the_order_of_their_numbers_and_failed_ones_are_crosses():
    image = history_figure([Ended(0, 0.2), Ended(1, None), Ended(3, 0.1, pruned=True)])
    assert image.mode == "RGB"
    left, right = 81, 878  # of the axes, on which four numbers have equal shares
    red = columns(image, RED)
    assert left + 0.25 * (right - left) < red.min() < red.max() < left + 0.5 * (right - left)
    # From the one finished trial, in the middle of the first quarter, its line goes on to the last number.
    blue = columns(image, BLUE)
    assert abs(blue.min() - (left + 0.125 * (right - left))) < 8
    assert abs(blue.max() - (left + 0.875 * (right - left))) < 8


def test_the_line_is_the_best_so_far():
    rows = np.flatnonzero(
        (np.asarray(history_figure([Ended(0, 0.1), Ended(1, 0.3), Ended(2, 0.2)])) == BLUE).all(2)[:, 735]
    )
    alone = np.flatnonzero(
        (np.asarray(history_figure([Ended(0, 0.1), Ended(1, 0.3), Ended(2, 0.1)])) == BLUE).all(2)[:, 735]
    )
    assert rows[0] == alone[0]  # the line stays at 0.3


@pytest.mark.parametrize("trials", [[Ended(0, None)], [Ended(5, 0.5, pruned=True)]])
def test_without_finished_trials_there_is_no_line(trials):
    assert not columns(history_figure(trials), BLUE).size


def test_no_trial():
    with pytest.raises(ValueError, match=r"trials \(=\[\]\) must hold at least one; draw no history"):
        history_figure([])


def test_a_bar_is_as_long_as_its_share():
    image = importance_figure({"lr": 0.75, "a$b$c": 0.25, "x": 0.0}, trials=9)
    blue = (np.asarray(image) == BLUE).all(axis=2).sum(axis=1)
    lengths = sorted({length for length in blue.tolist() if length > 20})
    assert len(lengths) == 2
    assert lengths[1] / lengths[0] == pytest.approx(3, rel=0.03)


def test_no_importance():
    with pytest.raises(ValueError, match=r"importances \(=\{\}\) must hold at least one setting"):
        importance_figure({}, trials=0)

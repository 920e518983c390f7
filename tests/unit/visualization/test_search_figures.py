"""Figures of a search: positions and lengths of what is drawn."""

import numpy as np
import pytest

from fcn.visualization.search_figures import EndedTrial, draw_importances, draw_trial_history

BLUE, RED = (31, 119, 180), (214, 39, 40)


def columns(image, color) -> np.ndarray:
    """Columns that hold pixels of a colour below the legend."""
    return np.flatnonzero((np.asarray(image)[60:] == color).all(axis=2).any(axis=0))


def test_trials_are_ordered_by_number_and_failed_ones_are_crosses():
    image = draw_trial_history([EndedTrial(0, 0.2), EndedTrial(1, None), EndedTrial(3, 0.1, pruned=True)])
    assert image.mode == "RGB"
    left, right = 81, 878  # edges of the axes; the four numbers have equal shares
    red = columns(image, RED)
    assert left + 0.25 * (right - left) < red.min() < red.max() < left + 0.5 * (right - left)
    # The line of the best score runs from the finished trial, in the middle of the first quarter, to the last number.
    blue = columns(image, BLUE)
    assert abs(blue.min() - (left + 0.125 * (right - left))) < 8
    assert abs(blue.max() - (left + 0.875 * (right - left))) < 8


def test_line_is_the_best_score_so_far():
    def top_of_line(last_score):
        trials = [EndedTrial(number, score) for number, score in enumerate((0.1, 0.3, last_score))]
        return np.flatnonzero((np.asarray(draw_trial_history(trials)) == BLUE).all(2)[:, 735])[0]

    assert top_of_line(0.2) == top_of_line(0.1)  # stays at 0.3


@pytest.mark.parametrize("trials", [[EndedTrial(0, None)], [EndedTrial(5, 0.5, pruned=True)]])
def test_no_line_without_finished_trials(trials):
    assert not columns(draw_trial_history(trials), BLUE).size


def test_importance_bars_are_proportional_to_shares():
    image = draw_importances({"lr": 0.75, "a$b$c": 0.25, "x": 0.0}, num_trials=9)
    blue = (np.asarray(image) == BLUE).all(axis=2).sum(axis=1)
    lengths = sorted({length for length in blue.tolist() if length > 20})
    assert len(lengths) == 2
    assert lengths[1] / lengths[0] == pytest.approx(3, rel=0.03)

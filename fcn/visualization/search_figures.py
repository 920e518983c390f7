"""Figures of a hyperparameter search: the history of its trials and the importance of its settings."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.ticker import MaxNLocator
from PIL import Image

from fcn.visualization.figure_style import new_figure, remove_frame, render_figure

_FINISHED, _PRUNED, _FAILED = "#1f77b4", "0.6", "#d62728"


class EndedTrial(NamedTuple):
    """A trial that has ended.

    Attributes:
        number: number of the trial.
        score: best score, higher is better; the last score of a pruned trial; None if it has none.
        pruned: whether the trial was stopped early.
    """

    number: int
    score: float | None
    pruned: bool = False


def draw_trial_history(trials: Sequence[EndedTrial]) -> Image.Image:
    """Draw the score of every trial over its number, and the best finished score so far. Crosses mark failed trials.

    Args:
        trials: at least one.
    """
    figure = new_figure(9, 4.5)
    axes = figure.subplots()
    figure.subplots_adjust(left=0.09, right=0.975, bottom=0.12, top=0.86)
    last = max(trial.number for trial in trials)
    finished = [(x, y) for x, y, pruned in trials if y is not None and not pruned]
    pruned = [(x, y) for x, y, early in trials if y is not None and early]
    if finished:
        places, values = [x for x, _ in finished], list(itertools.accumulate((y for _, y in finished), max))
        axes.step([*places, last], [*values, values[-1]], where="post", color=_FINISHED, label="best so far")
        axes.plot(*zip(*finished, strict=True), "o", color=_FINISHED, label="finished")
    if pruned:
        axes.plot(*zip(*pruned, strict=True), "o", color=_PRUNED, fillstyle="none", label="pruned, last score")
    if failed := [trial.number for trial in trials if trial.score is None]:
        bottom = axes.get_xaxis_transform()
        axes.plot(failed, [0] * len(failed), "x", color=_FAILED, label="failed", transform=bottom, clip_on=False)
    axes.set(xlabel="trial", ylabel="best val mean IoU", xlim=(-0.5, last + 0.5))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(color="0.9")
    remove_frame(axes, "top", "right")
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=4, frameon=False)
    return render_figure(figure)


def draw_importances(importances: Mapping[str, float], *, num_trials: int) -> Image.Image:
    """Draw the importance of every setting as a bar.

    Args:
        importances: shares of 1 by key, in the order from top to bottom; at least one.
        num_trials: number of finished trials from which they were estimated.
    """
    keys, shares = list(importances), list(importances.values())
    figure = new_figure(8, 0.42 * len(keys) + 1.1)
    figure.set_layout_engine("constrained")
    axes = figure.subplots()
    places = range(len(keys))
    axes.barh(places, 1, height=0.6, color="0.94")
    axes.barh(places, shares, height=0.6, color=_FINISHED)
    for place, share in zip(places, shares, strict=True):
        axes.text(1.02, place, f"{100 * share:.0f} %", va="center")
    axes.set_yticks(places, keys, parse_math=False)
    axes.set(xlim=(0, 1.1), ylim=(len(keys) - 0.4, -0.6), xticks=[])
    remove_frame(axes)
    axes.set_title(f"importance for val mean IoU, from {num_trials} finished trials", loc="left", fontsize=11)
    return render_figure(figure)

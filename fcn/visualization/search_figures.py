"""Pictures of a search: its course, and what its settings contribute."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image

from fcn.visualization.figures import figure_image

_FINISHED, _PRUNED, _FAILED = "#1f77b4", "0.6", "#d62728"


class Ended(NamedTuple):
    """A trial that has ended.

    Attributes:
        number: of the trial.
        score: higher is better; of a pruned one the last; None if there is none.
        pruned: whether it was stopped early.
    """

    number: int
    score: float | None
    pruned: bool = False


def history_figure(trials: Sequence[Ended]) -> Image.Image:
    """Score of every trial over their numbers, and the best of the finished ones so far; failed ones are crosses.

    Raises:
        ValueError: if there is no trial.
    """
    if not trials:
        raise ValueError("trials (=[]) must hold at least one; draw no history before the first one has ended")
    figure = Figure(figsize=(9, 4.5), dpi=100, facecolor="white")
    axes = figure.subplots()
    figure.subplots_adjust(left=0.09, right=0.975, bottom=0.12, top=0.86)
    last = max(trial.number for trial in trials)
    finished = [(x, y) for x, y, pruned in trials if y is not None and not pruned]
    early = [(x, y) for x, y, pruned in trials if y is not None and pruned]
    if finished:
        places, values = [x for x, _ in finished], list(itertools.accumulate((y for _, y in finished), max))
        axes.step([*places, last], [*values, values[-1]], where="post", color=_FINISHED, label="best so far")
        axes.plot(*zip(*finished, strict=True), "o", color=_FINISHED, label="finished")
    if early:
        axes.plot(*zip(*early, strict=True), "o", color=_PRUNED, fillstyle="none", label="pruned, last score")
    if failed := [trial.number for trial in trials if trial.score is None]:
        bottom = axes.get_xaxis_transform()
        axes.plot(failed, [0] * len(failed), "x", color=_FAILED, label="failed", transform=bottom, clip_on=False)
    axes.set(xlabel="trial", ylabel="best val mean IoU", xlim=(-0.5, last + 0.5))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=4, frameon=False)
    return figure_image(figure)


def importance_figure(importances: Mapping[str, float], *, trials: int) -> Image.Image:
    """A bar for every setting: its share in what made trials good.

    Args:
        importances: shares by key, drawn from top to bottom.
        trials: how many finished ones they are estimated from.

    Raises:
        ValueError: if there is no setting.
    """
    if not importances:
        raise ValueError("importances (={}) must hold at least one setting; draw none before two trials have finished")
    keys, shares = list(importances), list(importances.values())
    figure = Figure(figsize=(8, 0.42 * len(keys) + 1.1), dpi=100, facecolor="white", layout="constrained")
    axes = figure.subplots()
    places = range(len(keys))
    axes.barh(places, 1, height=0.6, color="0.94")
    axes.barh(places, shares, height=0.6, color=_FINISHED)
    for place, share in zip(places, shares, strict=True):
        axes.text(1.02, place, f"{100 * share:.0f} %", va="center")
    axes.set_yticks(places, keys, parse_math=False)
    axes.set(xlim=(0, 1.1), ylim=(len(keys) - 0.4, -0.6), xticks=[])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(f"importance for val mean IoU, from {trials} finished trials", loc="left", fontsize=11)
    return figure_image(figure)

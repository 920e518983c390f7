"""Learning curves: what metrics.csv says of a run, over its epochs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from PIL import Image

from fcn.visualization.figures import figure_image

Points = tuple[list[int], list[float]]
"""Epochs, counted from 1, and what was measured at their ends."""


class Curve(NamedTuple):
    """A column of metrics.csv and how it is drawn."""

    column: str
    label: str
    style: Mapping[str, Any]


# Colours that the colour blind tell apart (Okabe and Ito); dashes for the chapter's protocol, see `experiment=d2l`.
_TRAIN = {"color": "#0072b2", "marker": "o"}
_VAL = {"color": "#d55e00", "marker": "s"}
_CHAPTER_TRAIN = {"color": "#56b4e9", "marker": "o", "linestyle": "--"}
_CHAPTER_TEST = {"color": "#e69f00", "marker": "s", "linestyle": "--"}

LOSS = (
    Curve("train/loss", "train", _TRAIN),
    Curve("val/loss", "val", _VAL),
    Curve("d2l/train_loss", "d2l/train", _CHAPTER_TRAIN),
    Curve("d2l/test_loss", "d2l/test", _CHAPTER_TEST),
)
ACCURACY = (
    Curve("train/pixel_accuracy", "train", _TRAIN),
    Curve("val/pixel_accuracy", "val", _VAL),
    Curve("d2l/train_acc", "d2l/train", _CHAPTER_TRAIN),
    Curve("d2l/test_acc", "d2l/test", _CHAPTER_TEST),
)
MEAN_IOU = (Curve("val/mean_iou", "val", _VAL),)
LEARNING_RATE = (Curve("lr", "lr", {"color": "0.35", "marker": "o"}),)

_MOST_MARKERS = 40  # of a curve; more would hide its course

_PROTOCOL = "d2l/...: the chapter's protocol, where void counts as background"


def curves_figure(rows: Sequence[Mapping[str, Any]]) -> Image.Image:
    """Loss, pixel accuracy, mean IoU with its best epoch, and learning rate over the epochs, counted from 1.

    The curves of the chapter's protocol, where void counts as background, are dashed and named d2l/...

    Args:
        rows: of metrics.csv, as `fcn.runs.read_metrics` gives them: numbers as text, empty where nothing was
            measured; the epoch counts from 0. Columns may be absent, rows need not be validated.

    Raises:
        ValueError: if there is no row.
    """
    if not rows:
        raise ValueError("rows (=[]) must hold at least one epoch; draw no curves before the first has ended")
    figure = Figure(figsize=(10, 7), dpi=100, facecolor="white")
    figure.subplots_adjust(left=0.07, right=0.975, bottom=0.11, top=0.9, wspace=0.2, hspace=0.42)
    loss, accuracy, mean_iou, learning_rate = figure.subplots(2, 2).flat
    _draw(loss, "loss", LOSS, rows)
    spread_out(loss)
    _draw(accuracy, "pixel accuracy", ACCURACY, rows)
    _draw(mean_iou, "val mean IoU", MEAN_IOU, rows)
    _mark_best(mean_iou, *points(rows, "val/mean_iou"))
    _draw(learning_rate, "learning rate at the end of the epoch", LEARNING_RATE, rows)
    learning_rate.set_ylim(bottom=0)
    if any(points(rows, curve.column)[0] for curve in (*LOSS, *ACCURACY) if curve.column.startswith("d2l/")):
        figure.text(0.975, 0.02, _PROTOCOL, ha="right", color="0.4", fontsize=9)
    return figure_image(figure)


def points(rows: Sequence[Mapping[str, Any]], column: str) -> Points:
    """What was measured of a column: cells that are absent, empty or no finite number are left out."""
    cells = [(int(row["epoch"]) + 1, row.get(column)) for row in rows]
    measured = [(epoch, float(cell)) for epoch, cell in cells if cell not in (None, "")]
    finite = [(epoch, value) for epoch, value in measured if math.isfinite(value)]
    return [epoch for epoch, _ in finite], [value for _, value in finite]


def _draw(axes: Axes, title: str, curves: Sequence[Curve], rows: Sequence[Mapping[str, Any]]) -> None:
    style_axes(axes, title, last=max(int(row["epoch"]) for row in rows) + 1, pad=22 if len(curves) > 1 else 8)
    for curve in curves:
        epochs, values = points(rows, curve.column)
        if epochs:
            marker = {} if len(epochs) <= _MOST_MARKERS else {"marker": ""}
            axes.plot(epochs, values, label=curve.label, markersize=4, **{**curve.style, **marker})
    if not axes.lines:
        axes.set_yticks([])
        axes.text(0.5, 0.5, "not measured", color="0.5", ha="center", va="center", transform=axes.transAxes)
    elif len(curves) > 1:
        # Above the axes, where it covers no curve whatever its course.
        axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 0.98), ncols=len(curves), fontsize=9, frameon=False)


def style_axes(axes: Axes, title: str, *, last: int, pad: float = 8) -> None:
    """Title, grid, and an axis of epochs from 1 to `last`."""
    # A given y spares Matplotlib the search for a place above everything, a sixth of the drawing time.
    axes.set_title(title, loc="left", y=1, pad=pad, fontsize=11, fontweight="bold", parse_math=False)
    axes.set_xlabel("epoch")
    axes.set_xlim(0.5, last + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, steps=[1, 2, 5, 10], min_n_ticks=1))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(color="0.9")
    axes.spines[["top", "right"]].set_visible(False)


def spread_out(axes: Axes) -> None:
    """A first epoch far above the others would press them flat: then the scale is logarithmic."""
    values = [value for line in axes.lines for value in np.asarray(line.get_ydata(), np.float64)]
    if values and 0 < 20 * min(values) < max(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())


def _mark_best(axes: Axes, epochs: Sequence[int], values: Sequence[float]) -> None:
    """Mark the first epoch with the highest value, which is the one that best.ckpt holds."""
    if not epochs:
        return
    best = max(values)
    epoch = epochs[values.index(best)]
    axes.plot(epoch, best, marker="*", markersize=13, color=_VAL["color"], clip_on=False)
    axes.set_title(f"best {best:.3f} in epoch {epoch}", loc="right", y=1, pad=8, fontsize=10)

"""Learning curves of one run: the columns of metrics.csv over the epochs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from PIL import Image

from fcn.visualization.figure_style import (
    AMBER,
    BLUE,
    ORANGE,
    SKY,
    new_figure,
    remove_frame,
    render_figure,
    write_not_measured,
)

Rows = Sequence[Mapping[str, Any]]
"""Rows of metrics.csv as `fcn.runs.read_metrics` returns them: numbers as text, empty where nothing was measured; the
epoch counts from 0. Columns may be missing."""

Points = tuple[list[int], list[float]]
"""Epochs, counted from 1, and the values measured at their ends."""

_TRAIN: dict[str, Any] = {"color": BLUE, "marker": "o"}
_VAL: dict[str, Any] = {"color": ORANGE, "marker": "s"}
# Dashed: the curves of the d2l protocol, see `experiment=d2l`.
_D2L_TRAIN: dict[str, Any] = {"color": SKY, "marker": "o", "linestyle": "--"}
_D2L_TEST: dict[str, Any] = {"color": AMBER, "marker": "s", "linestyle": "--"}

# Column of metrics.csv, label and style of every curve.
Curves = Sequence[tuple[str, str, dict[str, Any]]]
LOSS: Curves = (
    ("train/loss", "train", _TRAIN),
    ("val/loss", "val", _VAL),
    ("d2l/train_loss", "d2l/train", _D2L_TRAIN),
    ("d2l/test_loss", "d2l/test", _D2L_TEST),
)
ACCURACY: Curves = (
    ("train/pixel_accuracy", "train", _TRAIN),
    ("val/pixel_accuracy", "val", _VAL),
    ("d2l/train_acc", "d2l/train", _D2L_TRAIN),
    ("d2l/test_acc", "d2l/test", _D2L_TEST),
)
MEAN_IOU: Curves = (("val/mean_iou", "val", _VAL),)
LEARNING_RATE: Curves = (("lr", "lr", {"color": "0.35", "marker": "o"}),)

_MAX_MARKERS = 40  # of a curve: more would hide the line

_D2L_NOTE = "d2l/...: the d2l protocol, in which void counts as background"


def draw_learning_curves(rows: Rows) -> Image.Image:
    """Draw loss, pixel accuracy, mean IoU with its best epoch, and learning rate over the epochs.

    Raises:
        ValueError: if there is no row.
    """
    if not rows:
        raise ValueError("rows (=[]) must hold at least one epoch")
    figure = new_figure(10, 7)
    figure.subplots_adjust(left=0.07, right=0.975, bottom=0.11, top=0.9, wspace=0.2, hspace=0.42)
    loss, accuracy, mean_iou, learning_rate = figure.subplots(2, 2).flat
    _draw_axes(loss, "loss", LOSS, rows)
    use_log_scale_for_wide_range(loss)
    _draw_axes(accuracy, "pixel accuracy", ACCURACY, rows)
    _draw_axes(mean_iou, "val mean IoU", MEAN_IOU, rows)
    _mark_best(mean_iou, *measured_points(rows, "val/mean_iou"))
    _draw_axes(learning_rate, "learning rate at the end of the epoch", LEARNING_RATE, rows)
    learning_rate.set_ylim(bottom=0)
    if any(column.startswith("d2l/") and measured_points(rows, column)[0] for column, *_ in (*LOSS, *ACCURACY)):
        figure.text(0.975, 0.02, _D2L_NOTE, ha="right", color="0.4", fontsize=9)
    return render_figure(figure)


def measured_points(rows: Rows, column: str) -> Points:
    """Return the finite values of a column and their epochs."""
    cells = [(int(row["epoch"]) + 1, row.get(column)) for row in rows]
    values = [(epoch, float(cell)) for epoch, cell in cells if cell not in (None, "")]
    finite = [(epoch, value) for epoch, value in values if math.isfinite(value)]
    return [epoch for epoch, _ in finite], [value for _, value in finite]


def _draw_axes(axes: Axes, title: str, curves: Curves, rows: Rows) -> None:
    style_epoch_axes(axes, title, last=max(int(row["epoch"]) for row in rows) + 1, pad=22 if len(curves) > 1 else 8)
    for column, label, style in curves:
        epochs, values = measured_points(rows, column)
        if epochs:
            marker = {} if len(epochs) <= _MAX_MARKERS else {"marker": ""}
            axes.plot(epochs, values, label=label, markersize=4, **{**style, **marker})
    if not axes.lines:
        write_not_measured(axes)
    elif len(curves) > 1:
        # Above the axes, where it cannot cover a curve.
        axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 0.98), ncols=len(curves), fontsize=9, frameon=False)


def style_epoch_axes(axes: Axes, title: str, *, last: int, pad: float = 8) -> None:
    """Set the title, the grid, and an x axis of epochs from 1 to `last`."""
    # An explicit y skips Matplotlib's search for a free place, which takes a sixth of the drawing time.
    axes.set_title(title, loc="left", y=1, pad=pad, fontsize=11, fontweight="bold", parse_math=False)
    axes.set_xlabel("epoch")
    axes.set_xlim(0.5, last + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, steps=[1, 2, 5, 10], min_n_ticks=1))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(color="0.9")
    remove_frame(axes, "top", "right")


def use_log_scale_for_wide_range(axes: Axes) -> None:
    """Use a logarithmic scale where the values span a factor over 20: a high first loss would flatten the rest."""
    values = [value for line in axes.lines for value in np.asarray(line.get_ydata(), np.float64)]
    if values and 0 < 20 * min(values) < max(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())


def _mark_best(axes: Axes, epochs: Sequence[int], values: Sequence[float]) -> None:
    """Mark the first epoch with the highest value, the one saved in best.ckpt."""
    if not epochs:
        return
    best = max(values)
    epoch = epochs[values.index(best)]
    axes.plot(epoch, best, marker="*", markersize=13, color=ORANGE, clip_on=False)
    axes.set_title(f"best {best:.3f} in epoch {epoch}", loc="right", y=1, pad=8, fontsize=10)

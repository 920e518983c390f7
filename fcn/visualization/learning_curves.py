"""Learning curves: the columns of metrics.csv over the epochs or steps, of one run and of groups of runs."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from PIL import Image

from fcn.visualization.figure_style import (
    AMBER,
    BLUE,
    GREEN,
    ORANGE,
    PINK,
    SKY,
    new_figure,
    remove_frame,
    render_figure,
    shorten_label,
)

Rows = Sequence[Mapping[str, Any]]
"""Rows of metrics.csv as `fcn.runs.read_metrics` returns them: numbers as text, empty where nothing was measured; the
epoch counts from 0. Columns may be missing."""

Points = tuple[list[int], list[float]]
"""Epochs, counted from 1, or steps, and the values measured at their ends."""

Unit = Literal["epoch", "step"]
"""Unit of the x axis."""

_LOOKS: dict[str, dict[str, Any]] = {
    "train": {"color": BLUE, "marker": "o"},
    "val": {"color": ORANGE, "marker": "s"},
    # Dashed: the curves of the d2l protocol, see `experiment=d2l`.
    "d2l/train": {"color": SKY, "marker": "o", "linestyle": "--"},
    "d2l/test": {"color": AMBER, "marker": "s", "linestyle": "--"},
    "lr": {"color": "0.35", "marker": "o"},
}

# Columns of metrics.csv by the labels of their curves.
LOSS = {"train": "train/loss", "val": "val/loss", "d2l/train": "d2l/train_loss", "d2l/test": "d2l/test_loss"}
ACCURACY = {
    "train": "train/pixel_accuracy",
    "val": "val/pixel_accuracy",
    "d2l/train": "d2l/train_acc",
    "d2l/test": "d2l/test_acc",
}

_MAX_MARKERS = 40  # maximum number of markers per curve: more would hide the line

_COLORS = (BLUE, ORANGE, GREEN, PINK, AMBER, SKY, "#000000", "#888888")
_STYLES: tuple[Literal["-", "--"], ...] = ("-", "-", "-", "-", "--", "--", "--", "--")  # distinguish colours in print

MAX_GROUPS = len(_COLORS)
"""Maximum number of groups drawn: the number of distinguishable colours."""

_LABEL_LENGTH = 110  # characters that fit below the axes

_D2L_NOTE = "d2l/...: the d2l protocol, in which void counts as background"


def draw_learning_curves(rows: Rows) -> Image.Image:
    """Draw loss, pixel accuracy, mean IoU with its best epoch, and learning rate over the epochs or steps.

    Args:
        rows: at least one.
    """
    figure = new_figure(10, 7)
    figure.subplots_adjust(left=0.07, right=0.975, bottom=0.11, top=0.9, wspace=0.2, hspace=0.42)
    loss, accuracy, mean_iou, learning_rate = figure.subplots(2, 2).flat
    unit = choose_unit([rows])
    _draw_axes(loss, "loss", LOSS, rows)
    _use_log_scale_for_wide_range(loss)
    _draw_axes(accuracy, "pixel accuracy", ACCURACY, rows)
    _draw_axes(mean_iou, "val mean IoU", {"val": "val/mean_iou"}, rows)
    _mark_best(mean_iou, *measured_points(rows, "val/mean_iou", unit=unit), unit=unit)
    title = "learning rate at the end of the epoch" if unit == "epoch" else "learning rate"
    _draw_axes(learning_rate, title, {"lr": "lr"}, rows)
    learning_rate.set_ylim(bottom=0)
    if any(curve.get_label().startswith("d2l/") for axes in (loss, accuracy) for curve in axes.lines):
        figure.text(0.975, 0.02, _D2L_NOTE, ha="right", color="0.4", fontsize=9)
    return render_figure(figure)


def choose_unit(runs: Iterable[Rows]) -> Unit:
    """Return the unit of the x axis: epochs if every row of every run ends one, which rows of `steps` need not."""
    for rows in runs:
        places = [(int(row["epoch"]) + 1, int(row["step"])) for row in rows if row.get("step")]
        if any(step * places[0][0] != epoch * places[0][1] for epoch, step in places):
            return "step"
    return "epoch"


def measured_points(rows: Rows, column: str, *, unit: Unit = "epoch") -> Points:
    """Return the finite values of a column and their epochs or steps."""
    cells = [(_position(row, unit), row.get(column)) for row in rows]
    values = [(position, float(cell)) for position, cell in cells if cell not in (None, "")]
    finite = [(position, value) for position, value in values if math.isfinite(value)]
    return [position for position, _ in finite], [value for _, value in finite]


def _position(row: Mapping[str, Any], unit: Unit) -> int:
    return int(row["epoch"]) + 1 if unit == "epoch" else int(row["step"])


def _draw_axes(axes: Axes, title: str, columns: Mapping[str, str], rows: Rows) -> None:
    unit = choose_unit([rows])
    last = max(_position(row, unit) for row in rows)
    _style_axes(axes, title, unit=unit, last=last, pad=22 if len(columns) > 1 else 8)
    for label, column in columns.items():
        positions, values = measured_points(rows, column, unit=unit)
        if positions:
            marker = {} if len(positions) <= _MAX_MARKERS else {"marker": ""}
            axes.plot(positions, values, label=label, markersize=4, **{**_LOOKS[label], **marker})
    if not axes.lines:
        _write_not_measured(axes)
    elif len(columns) > 1:
        # Above the axes, where it cannot cover a curve.
        axes.legend(loc="lower left", bbox_to_anchor=(-0.02, 0.98), ncols=len(columns), fontsize=9, frameon=False)


def _style_axes(axes: Axes, title: str, *, unit: Unit, last: int, pad: float = 8) -> None:
    """Set the title, the grid, and an x axis of epochs from 1 to `last`, or of steps from 0."""
    # An explicit y skips Matplotlib's search for a free place, which takes a sixth of the drawing time.
    axes.set_title(title, loc="left", y=1, pad=pad, fontsize=11, fontweight="bold", parse_math=False)
    axes.set_xlabel(unit)
    axes.set_xlim(*((0.5, last + 0.5) if unit == "epoch" else (0, 1.02 * last)))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, steps=[1, 2, 5, 10], min_n_ticks=1))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(color="0.9")
    remove_frame(axes, "top", "right")


def _use_log_scale_for_wide_range(axes: Axes) -> None:
    """Use a logarithmic scale where the values span a factor over 20: a high first loss would flatten the rest."""
    values = [value for line in axes.lines for value in np.asarray(line.get_ydata(), np.float64)]
    if values and 0 < 20 * min(values) < max(values):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())


def _write_not_measured(axes: Axes) -> None:
    """Write "not measured" into axes without a curve."""
    axes.set_yticks([])
    axes.text(0.5, 0.5, "not measured", color="0.5", ha="center", va="center", transform=axes.transAxes)


def _mark_best(axes: Axes, positions: Sequence[int], values: Sequence[float], *, unit: Unit) -> None:
    """Mark the first point with the highest value, the one saved in best.ckpt."""
    if not positions:
        return
    best = max(values)
    position = positions[values.index(best)]
    axes.plot(position, best, marker="*", markersize=13, color=ORANGE, clip_on=False)
    axes.set_title(
        f"best {best:.3f} {'in' if unit == 'epoch' else 'at'} {unit} {position}", loc="right", y=1, pad=8, fontsize=10
    )


def draw_group_curves(groups: Mapping[str, Sequence[Rows]], *, metric: str = "val/mean_iou") -> Image.Image:
    """Draw a metric and the training loss of groups of runs: a thin line per run, a thick line for the mean of a group.

    The x axis shows epochs, or steps if any run was not measured at the ends of epochs. The mean covers the points that
    all runs of the group have measured. The first `MAX_GROUPS` groups are drawn; a note gives the number of the others.

    Args:
        groups: rows of metrics.csv of every run, by the name of the group; at least one run has a row.
        metric: column drawn on the left.
    """
    measured = {name: [rows for rows in runs if rows] for name, runs in groups.items() if any(runs)}
    drawn = dict(list(measured.items())[:MAX_GROUPS])
    notes = [f"{len(measured) - len(drawn)} more groups are not drawn"] if len(measured) > len(drawn) else []
    if any(len(runs) > 1 for runs in drawn.values()):
        notes.append("thin lines: runs; thick lines: their mean")
    below = 0.62 + 0.215 * (len(drawn) + bool(notes))  # inches, as all of the layout
    height = 3.6 + below
    figure = new_figure(10, height, dpi=130)
    figure.subplots_adjust(left=0.06, right=0.985, bottom=below / height, top=1 - 0.45 / height, wspace=0.16)
    for axes, column in zip(figure.subplots(1, 2).flat, (metric, "train/loss"), strict=True):
        _draw_group_axes(axes, column, drawn)
    _draw_legend(figure, list(drawn), "; ".join(notes))
    return render_figure(figure)


def _draw_group_axes(axes: Axes, column: str, groups: Mapping[str, Sequence[Rows]]) -> None:
    unit = choose_unit(rows for runs in groups.values() for rows in runs)
    last = max(_position(row, unit) for runs in groups.values() for rows in runs for row in rows)
    _style_axes(axes, column, unit=unit, last=last)
    for runs, color, style in zip(groups.values(), _COLORS, _STYLES, strict=False):
        curves = [curve for curve in (measured_points(rows, column, unit=unit) for rows in runs) if curve[0]]
        for positions, values in curves if len(curves) > 1 else ():
            axes.plot(positions, values, color=color, linewidth=0.8, alpha=0.45, linestyle=style)
        marker = "o" if max((len(positions) for positions, _ in curves), default=0) < 15 else ""
        if curves:
            axes.plot(*_mean_curve(curves), color=color, linewidth=2.2, linestyle=style, marker=marker, ms=3.5)
    if not axes.lines:
        _write_not_measured(axes)
    elif column.endswith("loss"):
        _use_log_scale_for_wide_range(axes)


def _mean_curve(curves: Sequence[Points]) -> Points:
    """Return the mean of curves at the points of the x axis that occur in all curves."""
    by_position = [dict(zip(*curve, strict=True)) for curve in curves]
    positions = sorted(set.intersection(*(set(values) for values in by_position)))
    return positions, [math.fsum(values[each] for values in by_position) / len(by_position) for each in positions]


def _draw_legend(figure: Figure, names: Sequence[str], note: str) -> None:
    """Draw a legend below the axes, one line per group: long names fit and cover no curve."""
    handles = [
        Line2D([], [], color=color, linestyle=style, linewidth=2.2)
        for _, color, style in zip(names, _COLORS, _STYLES, strict=False)
    ]
    handles += [Line2D([], [], alpha=0)] if note else []
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0.045, 0.0), "frameon": False, "fontsize": 9}
    # Texts are set afterwards: Matplotlib drops labels that begin with an underscore, and reads `$` as a formula.
    legend = figure.legend(handles, ["-"] * len(handles), handlelength=2.6, **place)
    for text, name in zip(legend.get_texts(), [*names, note], strict=False):
        text.set_parse_math(False)
        text.set_text(shorten_label(name, _LABEL_LENGTH))
    if note:
        legend.get_texts()[-1].set_color("0.4")

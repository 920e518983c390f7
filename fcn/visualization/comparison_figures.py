"""Figures that compare runs: curves of groups of runs, and differences per class."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from fcn.visualization.curves import Points, points, spread_out, style_axes
from fcn.visualization.figures import figure_image

MOST_GROUPS = 8
"""Groups of runs that are drawn, at most: as many as there are colours that the colour blind tell apart."""

# Okabe and Ito without their yellow, which is lost on white; dashes help in print.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000", "#888888")
_STYLES: tuple[Literal["-", "--"], ...] = ("-", "-", "-", "-", "--", "--", "--", "--")

_LABEL_LENGTH = 110  # characters that fit below the axes

Rows = Sequence[Mapping[str, Any]]
"""Of one metrics.csv, see `fcn.visualization.curves_figure`."""


def group_curves(groups: Mapping[str, Sequence[Rows]], *, metric: str = "val/mean_iou") -> Image.Image:
    """A metric and the training loss over the epochs, counted from 1: a colour per group of runs.

    A thin line per run, and over them a thick one, their mean, over the epochs that all of them have measured.
    Of many groups the first `MOST_GROUPS` are drawn, and it is said how many are left out.

    Args:
        groups: by name, the rows of metrics.csv of every run in the group.
        metric: column of the first picture.

    Raises:
        ValueError: if no run has a row.
    """
    measured = {name: [rows for rows in runs if rows] for name, runs in groups.items()}
    measured = {name: runs for name, runs in measured.items() if runs}
    if not measured:
        raise ValueError("groups must hold at least one run with an epoch; draw no curves before the first has ended")
    shown = dict(list(measured.items())[:MOST_GROUPS])
    notes = [f"{len(measured) - len(shown)} more groups are not drawn"] if len(measured) > len(shown) else []
    if any(len(runs) > 1 for runs in shown.values()):
        notes.append("thin: runs; thick: their mean")
    below = 0.62 + 0.215 * (len(shown) + bool(notes))  # inches, as all of the layout
    height = 3.6 + below
    figure = Figure(figsize=(10, height), dpi=130, facecolor="white")
    figure.subplots_adjust(left=0.06, right=0.985, bottom=below / height, top=1 - 0.45 / height, wspace=0.16)
    for axes, column in zip(figure.subplots(1, 2).flat, (metric, "train/loss"), strict=True):
        _draw_groups(axes, column, shown)
    _name_groups(figure, list(shown), notes)
    return figure_image(figure)


def _draw_groups(axes: Axes, column: str, groups: Mapping[str, Sequence[Rows]]) -> None:
    last = max(int(row["epoch"]) + 1 for runs in groups.values() for rows in runs for row in rows)
    style_axes(axes, column, last=last)
    for runs, color, style in zip(groups.values(), _COLORS, _STYLES, strict=False):
        curves = [curve for curve in (points(rows, column) for rows in runs) if curve[0]]
        for epochs, values in curves if len(curves) > 1 else ():
            axes.plot(epochs, values, color=color, linewidth=0.8, alpha=0.45, linestyle=style)
        epochs, values = mean_curve(curves)
        axes.plot(epochs, values, color=color, linewidth=2.2, linestyle=style, marker="o" if last < 15 else "", ms=3.5)
    if not any(len(line.get_xdata()) for line in axes.lines):  # type: ignore[arg-type]
        axes.set_yticks([])
        axes.text(0.5, 0.5, "not measured", color="0.5", ha="center", va="center", transform=axes.transAxes)
    elif column.endswith("loss"):
        spread_out(axes)


def mean_curve(curves: Sequence[Points]) -> Points:
    """Mean of curves at the epochs that all of them have; empty without a curve."""
    by_epoch = [dict(zip(*curve, strict=True)) for curve in curves]
    epochs = sorted(set.intersection(*(set(values) for values in by_epoch))) if by_epoch else []
    return epochs, [math.fsum(values[epoch] for values in by_epoch) / len(by_epoch) for epoch in epochs]


def _name_groups(figure: Figure, names: Sequence[str], notes: Sequence[str]) -> None:
    """A legend below the axes, a group a line, so that names of any length are read and cover nothing."""
    lines = [
        Line2D([], [], color=color, linestyle=style, linewidth=2.2)
        for _, color, style in zip(names, _COLORS, _STYLES, strict=False)
    ]
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0.045, 0.0), "frameon": False, "fontsize": 9}
    # Matplotlib would leave out a name that begins with an underscore, and read dollar signs as a formula.
    legend = figure.legend([*lines, *(Line2D([], [], alpha=0) for _ in notes[:1])], ["-"] * (len(lines) + bool(notes)),
                           handlelength=2.6, **place)  # fmt: skip
    for text, name in zip(legend.get_texts(), [*names, "; ".join(notes)], strict=False):
        text.set_parse_math(False)
        text.set_text(_short(name))
    if notes:
        legend.get_texts()[-1].set_color("0.4")


def delta_figure(
    classes: Sequence[str],
    deltas: Sequence[float],
    *,
    names: tuple[str, str],
    intervals: Sequence[tuple[float, float]] | None = None,
) -> Image.Image:
    """Difference of IoU per class as bars, largest first; a class without a score in one of both has none.

    Args:
        classes: names.
        deltas: IoU of the first minus IoU of the second, per class; NaN where there is none.
        names: of the first and of the second.
        intervals: low and high end of every difference, drawn as whiskers.

    Raises:
        ValueError: if there is not one difference per class, or none is a number.
    """
    if len(deltas) != len(classes) or not np.isfinite(deltas).any():
        raise ValueError(
            f"deltas (={len(deltas)}) must be one per class, of which there are {len(classes)}, and one of them a "
            "number; draw no bars where no class is scored"
        )
    order = [index for index in np.argsort([-delta for delta in deltas]) if np.isfinite(deltas[index])]
    left = 0.4 + 0.085 * max(len(_short(name, 40)) for name in classes)
    size = (left + 5.6, 0.27 * len(order) + 1.25)  # inches
    figure = Figure(figsize=size, dpi=130, facecolor="white")
    axes = figure.subplots()
    figure.subplots_adjust(left=left / size[0], right=1 - 0.75 / size[0], bottom=0.55 / size[1], top=1 - 0.62 / size[1])
    values, rows = [float(deltas[index]) for index in order], range(len(order))
    axes.barh(rows, values, height=0.66, color=["#56b4e9" if value >= 0 else "#e69f00" for value in values])
    if intervals is not None:
        ends = np.array([intervals[index] for index in order])
        axes.hlines(list(rows), ends[:, 0], ends[:, 1], color="0.1", linewidth=1.2)
    _style_bars(axes, [_short(classes[index], 40) for index in order], values)
    for line, (name, mark) in enumerate(zip(names, ("A", "B"), strict=True)):
        figure.text(0.02, 1 - (0.24 + 0.22 * line) / size[1], f"{mark}  {_short(name, 88)}", fontsize=9, va="center",
                    parse_math=False)  # fmt: skip
    return figure_image(figure)


def _style_bars(axes: Axes, names: Sequence[str], values: Sequence[float]) -> None:
    axes.set_yticks(range(len(names)), names, parse_math=False, fontsize=9)
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.set_xlabel("IoU of A minus IoU of B", fontsize=9)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8)
    axes.axvline(0, color="0.25", linewidth=1)
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, -1e-3), max(high, 1e-3))
    for row, value in enumerate(values):
        text = f"{value:+.3f}".replace("-", "\N{MINUS SIGN}") if round(value, 3) else "0.000"
        axes.text(1.02, row, text, transform=axes.get_yaxis_transform(), va="center", fontsize=9)


def _short(text: str, length: int = _LABEL_LENGTH) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else f"{text[: length - 1]}\N{HORIZONTAL ELLIPSIS}"

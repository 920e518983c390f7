"""Learning curves of several groups of runs: a colour per group, averaged over seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image

from fcn.visualization.figure_style import (
    AMBER,
    BLUE,
    GREEN,
    ORANGE,
    PINK,
    SKY,
    new_figure,
    render_figure,
    shorten_label,
    write_not_measured,
)
from fcn.visualization.learning_curves import (
    Points,
    Rows,
    measured_points,
    style_epoch_axes,
    use_log_scale_for_wide_range,
)

_COLORS = (BLUE, ORANGE, GREEN, PINK, AMBER, SKY, "#000000", "#888888")
_STYLES: tuple[Literal["-", "--"], ...] = ("-", "-", "-", "-", "--", "--", "--", "--")  # tell colours apart in print

MAX_GROUPS = len(_COLORS)
"""Maximum number of groups drawn: the number of distinguishable colours."""

_LABEL_LENGTH = 110  # characters that fit below the axes


def draw_group_curves(groups: Mapping[str, Sequence[Rows]], *, metric: str = "val/mean_iou") -> Image.Image:
    """Draw a metric and the training loss over the epochs: a thin line per run, a thick line for the mean of a group.

    The mean covers the epochs that all runs of the group have measured. The first `MAX_GROUPS` groups are drawn; a note
    gives the number of the others.

    Args:
        groups: rows of metrics.csv of every run, by the name of the group.
        metric: column drawn on the left.

    Raises:
        ValueError: if no run has a row.
    """
    measured = {name: [rows for rows in runs if rows] for name, runs in groups.items()}
    measured = {name: runs for name, runs in measured.items() if runs}
    if not measured:
        raise ValueError("groups must hold at least one run with an epoch")
    drawn = dict(list(measured.items())[:MAX_GROUPS])
    notes = [f"{len(measured) - len(drawn)} more groups are not drawn"] if len(measured) > len(drawn) else []
    if any(len(runs) > 1 for runs in drawn.values()):
        notes.append("thin lines: runs; thick lines: mean over seeds")
    below = 0.62 + 0.215 * (len(drawn) + bool(notes))  # inches, as all of the layout
    height = 3.6 + below
    figure = new_figure(10, height, dpi=130)
    figure.subplots_adjust(left=0.06, right=0.985, bottom=below / height, top=1 - 0.45 / height, wspace=0.16)
    for axes, column in zip(figure.subplots(1, 2).flat, (metric, "train/loss"), strict=True):
        _draw_axes(axes, column, drawn)
    _draw_legend(figure, list(drawn), "; ".join(notes))
    return render_figure(figure)


def _draw_axes(axes: Axes, column: str, groups: Mapping[str, Sequence[Rows]]) -> None:
    last = max(int(row["epoch"]) + 1 for runs in groups.values() for rows in runs for row in rows)
    style_epoch_axes(axes, column, last=last)
    for runs, color, style in zip(groups.values(), _COLORS, _STYLES, strict=False):
        curves = [curve for curve in (measured_points(rows, column) for rows in runs) if curve[0]]
        for epochs, values in curves if len(curves) > 1 else ():
            axes.plot(epochs, values, color=color, linewidth=0.8, alpha=0.45, linestyle=style)
        epochs, values = _mean_curve(curves)
        axes.plot(epochs, values, color=color, linewidth=2.2, linestyle=style, marker="o" if last < 15 else "", ms=3.5)
    if not any(len(line.get_xdata()) for line in axes.lines):  # type: ignore[arg-type]
        write_not_measured(axes)
    elif column.endswith("loss"):
        use_log_scale_for_wide_range(axes)


def _mean_curve(curves: Sequence[Points]) -> Points:
    """Return the mean of curves at the epochs that all of them have; empty without a curve."""
    by_epoch = [dict(zip(*curve, strict=True)) for curve in curves]
    epochs = sorted(set.intersection(*(set(values) for values in by_epoch))) if by_epoch else []
    return epochs, [math.fsum(values[epoch] for values in by_epoch) / len(by_epoch) for epoch in epochs]


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

"""Bars of the difference of IoU per class between two groups of runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from PIL import Image

from fcn.visualization.figure_style import AMBER, MINUS, SKY, new_figure, remove_frame, render_figure, shorten_label


def draw_class_differences(
    classes: Sequence[str],
    differences: Sequence[float],
    *,
    names: tuple[str, str],
    intervals: Sequence[tuple[float, float]] | None = None,
) -> Image.Image:
    """Draw the difference of IoU per class as bars, largest first; a class without a score has no bar.

    Args:
        classes: class names.
        differences: IoU of A minus IoU of B per class; NaN where one of them is missing, but not everywhere.
        names: names of A and B.
        intervals: low and high end of every difference, drawn as lines.
    """
    order = [index for index in np.argsort([-value for value in differences]) if np.isfinite(differences[index])]
    labels = [shorten_label(name, 40) for name in classes]
    left = 0.4 + 0.085 * max(map(len, labels))
    width, height = left + 5.6, 0.27 * len(order) + 1.25  # inches
    figure = new_figure(width, height, dpi=130)
    axes = figure.subplots()
    figure.subplots_adjust(left=left / width, right=1 - 0.75 / width, bottom=0.55 / height, top=1 - 0.62 / height)
    values, rows = [float(differences[index]) for index in order], range(len(order))
    axes.barh(rows, values, height=0.66, color=[SKY if value >= 0 else AMBER for value in values])
    if intervals is not None:
        ends = np.array([intervals[index] for index in order])
        axes.hlines(list(rows), ends[:, 0], ends[:, 1], color="0.1", linewidth=1.2)
    _style_axes(axes, [labels[index] for index in order], values)
    for line, (name, mark) in enumerate(zip(names, "AB", strict=True)):
        text = f"{mark}  {shorten_label(name, 88)}"
        figure.text(0.02, 1 - (0.24 + 0.22 * line) / height, text, fontsize=9, va="center", parse_math=False)
    return render_figure(figure)


def _style_axes(axes: Axes, labels: Sequence[str], values: Sequence[float]) -> None:
    axes.set_yticks(range(len(labels)), labels, parse_math=False, fontsize=9)
    axes.set_ylim(len(labels) - 0.45, -0.55)
    axes.set_xlabel("IoU of A minus IoU of B", fontsize=9)
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8)
    axes.axvline(0, color="0.25", linewidth=1)
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    remove_frame(axes, "top", "right", "left")
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, -1e-3), max(high, 1e-3))
    for row, value in enumerate(values):
        text = f"{value:+.3f}".replace("-", MINUS) if round(value, 3) else "0.000"
        axes.text(1.02, row, text, transform=axes.get_yaxis_transform(), va="center", fontsize=9)

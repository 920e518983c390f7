"""Figure of the confusion matrix and the IoU of every class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from numpy.typing import NDArray
from PIL import Image

from fcn.visualization.figure_style import DASH, new_figure, remove_frame, render_figure


def row_shares(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the share of each target class's pixels predicted as each class, float64 [C, C].

    Rows sum to 1; the row of a class without target pixels is NaN.
    """
    totals = confusion.sum(axis=1, keepdims=True).astype(np.float64)
    return confusion / np.where(totals > 0, totals, np.nan)


def draw_confusion_matrix(
    confusion: NDArray[np.int64], classes: Sequence[str], ious: NDArray[np.float64]
) -> Image.Image:
    """Draw the confusion matrix in per cent of each target class, and the IoU of each class to the right of it.

    Args:
        confusion: int64 [C, C], pixel counts; rows are targets, columns are predictions.
        classes: names of the C classes.
        ious: IoU of every class, float64 [C]; NaN for a class that never occurs.
    """
    count = len(classes)
    side = max(2.2, (0.62 if count <= 12 else 0.38) * count)  # inches, as all of the layout
    names = 0.085 * max(len(name) for name in classes)
    figure = new_figure(side + names + 2.2, side + 0.7 * names + 1.0)
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.12)
    matrix, bars = figure.subplots(1, 2, sharey=True, width_ratios=[side, 1.1])
    _draw_shares(matrix, row_shares(confusion), classes)
    _draw_ious(bars, ious)
    return render_figure(figure)


def _draw_shares(axes: Axes, shares: NDArray[np.float64], classes: Sequence[str]) -> None:
    decimals, size = (1, 9) if len(classes) <= 12 else (0, 8)
    places = range(len(classes))
    # The square root makes confusions of a few per cent visible.
    look: dict[str, Any] = {"cmap": "Blues", "norm": PowerNorm(0.5, 0, 100), "edgecolors": "white"}
    axes.pcolormesh(places, places, 100 * shares, shading="nearest", linewidth=1, **look)
    axes.invert_yaxis()
    axes.set_facecolor("0.9")  # visible where a row is NaN
    # Without parse_math=False, a class name with two dollar signs would be read as a formula.
    axes.set_xticks(places, classes, parse_math=False, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(places, classes, parse_math=False)
    axes.set(xlabel="prediction", ylabel="target")
    axes.set_title("share of the target class, %", fontsize=10)
    axes.tick_params(labelsize=9)
    remove_frame(axes)
    # Excluded from the layout, which would measure hundreds of texts that fit anyway.
    style: dict[str, Any] = {"ha": "center", "va": "center_baseline", "fontsize": size, "in_layout": False}
    for row, column in np.argwhere(100 * shares >= 0.5 * 0.1**decimals):
        share = 100 * shares[row, column]
        color = "white" if share > 30 else "0.15"
        axes.text(column, row, f"{share:.{decimals}f}", color=color, **style)


def _draw_ious(axes: Axes, ious: NDArray[np.float64]) -> None:
    """Draw a bar and the IoU per class in line with the matrix's rows; a class that never occurs has a dash."""
    mean = DASH if np.isnan(ious).all() else f"{np.nanmean(ious):.3f}"
    rows, thickness = range(len(ious)), min(0.5, 0.14 * len(ious))
    axes.barh(rows, 1, height=thickness, color="0.92")
    axes.barh(rows, np.nan_to_num(ious), height=thickness, color="#4292c6")
    axes.set_xlim(0, 1)
    axes.set_xticks([])
    axes.tick_params(labelleft=False)
    remove_frame(axes)
    axes.set_title(f"IoU, mean {mean}", fontsize=10)
    for row, iou in enumerate(ious):
        axes.text(1.06, row, DASH if np.isnan(iou) else f"{iou:.3f}", va="center_baseline", fontsize=9)

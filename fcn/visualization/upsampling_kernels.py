"""Figure of the kernels of transposed convolutions next to the bilinear kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray
from PIL import Image

from fcn.visualization.figure_style import MINUS, ORANGE, new_figure, remove_frame, render_figure

# Inches. Places are fixed because a layout engine would take longer than the drawing itself.
_WIDTH, _HEIGHT, _BOTTOM, _SIDE = 13.2, 3.5, 0.45, 2.7
_KERNEL, _PROFILE, _DIFFERENCE, _PAIRS = 0.2, 3.4, 6.7, 10.3  # left edges

Kernels = NDArray[np.float32]
"""Weight of a transposed convolution, [C, C, k, k]: from class (first axis) to class."""

Place = tuple[float, float]
"""Left and bottom edge, in inches."""


def pair_norms(weight: Kernels, bilinear: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the change of the kernel from each class (row) to each class (column), float64 [C, C].

    ||W_ij - B_ij|| / ||b||, where B holds the kernel b on its diagonal and zeros elsewhere. The root of the mean over
    the rows of the sums of squares is the scalar `upsampling/drift/<layer>`.

    Args:
        weight: float [C, C, k, k].
        bilinear: the kernel b, float [k, k].
    """
    change = weight.astype(np.float64)
    change[range(len(change)), range(len(change))] -= bilinear
    norms: NDArray[np.float64] = np.linalg.norm(change, axis=(2, 3)) / np.linalg.norm(bilinear)
    return norms


def draw_kernels(layers: Mapping[str, tuple[Kernels, NDArray[np.float32]]], classes: Sequence[str]) -> Image.Image:
    """Draw a row per layer: mean kernel of the classes, its profile, its difference from bilinear, change per pair.

    Args:
        layers: weight [C, C, k, k] and bilinear kernel [k, k] by the name of the layer; at least one.
        classes: names of the C classes.
    """
    height = _HEIGHT * len(layers)
    figure = new_figure(_WIDTH, height)
    # One canvas for all images and texts: separate axes with ticks would take most of the drawing time.
    canvas = figure.add_axes((0, 0, 1, 1), xlim=(0, _WIDTH), ylim=(0, height), frame_on=False, autoscale_on=False)
    canvas.set_axis_off()
    for number, (name, (weight, bilinear)) in enumerate(layers.items(), start=1):
        bottom = height - number * _HEIGHT + _BOTTOM
        own = weight[range(len(weight)), range(len(weight))].astype(np.float64)
        mean = own.mean(axis=0)
        _draw_kernel(canvas, (_KERNEL, bottom), mean, f"{name}: mean kernel of the classes")
        profile = figure.add_axes((_PROFILE / _WIDTH, bottom / height, _SIDE / _WIDTH, _SIDE / height))
        _draw_profile(profile, own, bilinear)
        _draw_kernel(canvas, (_DIFFERENCE, bottom), mean - bilinear, f"mean kernel {MINUS} bilinear", diverging=True)
        _draw_pairs(canvas, (_PAIRS, bottom), pair_norms(weight, bilinear), classes)
    return render_figure(figure)


def _draw_kernel(
    canvas: Axes, place: Place, kernel: NDArray[np.float64], title: str, *, diverging: bool = False
) -> None:
    low, high = float(kernel.min()), float(kernel.max())
    reach = max(-low, high) or 1.0
    limits = (-reach, reach) if diverging else (low, high)
    _draw_image(canvas, place, kernel, title, cmap="RdBu_r" if diverging else "viridis", limits=limits)
    canvas.text(place[0] + _SIDE, place[1] - 0.08, f"{low:.3g} to {high:.3g}", ha="right", va="top", fontsize=9)


def _draw_profile(axes: Axes, own: NDArray[np.float64], bilinear: NDArray[np.float32]) -> None:
    """Draw the middle row of the kernels: mean and range of the classes, and the bilinear kernel."""
    size = len(bilinear)
    rows = own[:, size // 2]
    axes.fill_between(range(size), rows.min(axis=0), rows.max(axis=0), color="#9ecae1", linewidth=0, label="classes")
    axes.plot(rows.mean(axis=0), color="#08519c", label="mean")
    axes.plot(bilinear[size // 2], color=ORANGE, linestyle="--", label="bilinear")
    axes.set_title("middle row", loc="left", y=1, fontsize=10)
    axes.set_xlim(0, size - 1)
    axes.set_xticks([0, size // 2, size - 1])
    axes.tick_params(labelsize=8)
    remove_frame(axes, "top", "right")
    axes.legend(loc="upper left", fontsize=8, frameon=False)


def _draw_pairs(canvas: Axes, place: Place, norms: NDArray[np.float64], classes: Sequence[str]) -> None:
    left, bottom = place
    limits = (0.0, float(norms.max()) or 1.0)
    title = f"change from class to class, up to {norms.max():.3g}"
    _draw_image(canvas, place, norms, title, cmap="magma_r", limits=limits)
    step = _SIDE / len(classes)
    for row, label in enumerate(classes):
        middle = bottom + _SIDE - (row + 0.5) * step
        # Without parse_math=False, a class name with two dollar signs would be read as a formula.
        canvas.text(left - 0.06, middle, label, ha="right", va="center", fontsize=min(9, 60 * step), parse_math=False)
    canvas.text(left + _SIDE, bottom - 0.08, "to class, in the same order", ha="right", va="top", fontsize=9)


def _draw_image(
    canvas: Axes, place: Place, values: NDArray[np.float64], title: str, *, cmap: str, limits: tuple[float, float]
) -> None:
    left, bottom = place
    extent = (left, left + _SIDE, bottom, bottom + _SIDE)
    low, high = limits
    canvas.imshow(values, cmap=cmap, vmin=low, vmax=high, extent=extent, interpolation="nearest", aspect="auto")
    canvas.text(left, bottom + _SIDE + 0.08, title, fontsize=10, parse_math=False)

"""Mean IoU near object boundaries as a curve over the width of the band."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from PIL import Image

from fcn.visualization.figures import figure_image


def boundary_figure(widths: Sequence[int], mean_ious: Sequence[float], *, whole: float) -> Image.Image:
    """Mean IoU over the width of the band, with that of the whole images as a line; a NaN is left out.

    Args:
        widths: of the bands, pixels.
        mean_ious: in the band of each width, fractions of 1.
        whole: mean IoU of all non-void pixels.
    """
    figure = Figure(figsize=(6.4, 4.2), dpi=120, facecolor="white")
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.1)
    axes = figure.subplots()
    axes.axhline(whole, color="0.45", linestyle=(0, (5, 3)), linewidth=1.4, label=f"whole images, {whole:.3f}")
    axes.plot(widths, mean_ious, color="#2171b5", marker="o", linewidth=2, label="band along the outlines")
    for width, value in zip(widths, mean_ious, strict=True):
        # Below the curve, which rises towards the line of the whole images in general.
        axes.annotate(f"{value:.3f}", (width, value), (0, -16), textcoords="offset points", ha="center", fontsize=9)
    axes.set_xscale("log", base=2)
    axes.set_xticks(widths, [str(width) for width in widths])
    axes.minorticks_off()
    known = [value for value in (*mean_ious, whole) if value == value]  # NaN differs from itself
    axes.set_ylim(0, 1.15 * max([*known, 0.05]))
    axes.set(xlabel="width of the band, pixels to the nearest other label", ylabel="mean IoU")
    axes.grid(axis="y", color="0.9")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", frameon=False)
    return figure_image(figure)

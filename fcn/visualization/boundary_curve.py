"""Curve of the mean IoU near object boundaries over the width of the evaluated band."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from fcn.visualization.figure_style import new_figure, remove_frame, render_figure


def draw_boundary_curve(widths: Sequence[int], mean_ious: Sequence[float], *, whole: float) -> Image.Image:
    """Draw the mean IoU in bands along the boundaries over the width of the band, and the mean IoU over whole images.

    Args:
        widths: widths of the bands in pixels.
        mean_ious: mean IoU in the band of each width, 0 to 1; a NaN is not drawn.
        whole: mean IoU over all non-void pixels, drawn as a dashed line.
    """
    figure = new_figure(6.4, 4.2, dpi=120)
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.1)
    axes = figure.subplots()
    axes.axhline(whole, color="0.45", linestyle=(0, (5, 3)), linewidth=1.4, label=f"whole images, {whole:.3f}")
    axes.plot(widths, mean_ious, color="#2171b5", marker="o", linewidth=2, label="band along the boundaries")
    for width, value in zip(widths, mean_ious, strict=True):
        # Below the curve, which usually rises towards the line of the whole images.
        axes.annotate(f"{value:.3f}", (width, value), (0, -16), textcoords="offset points", ha="center", fontsize=9)
    axes.set_xscale("log", base=2)
    axes.set_xticks(widths, [str(width) for width in widths])
    axes.minorticks_off()
    known = [value for value in (*mean_ious, whole) if value == value]  # NaN differs from itself
    axes.set_ylim(0, 1.15 * max([*known, 0.05]))
    axes.set(xlabel="width of the band, in pixels from the nearest other label", ylabel="mean IoU")
    axes.grid(axis="y", color="0.9")
    remove_frame(axes, "top", "right")
    axes.legend(loc="lower right", frameon=False)
    return render_figure(figure)

"""Comparison of bilinear upsampling by a transposed convolution with torch's interpolation, and its figure.

Inside, the difference is rounding. At the border the transposed convolution darkens the image, because its padding is
zero. Source: section 14.11.2 of "Dive into Deep Learning", initializing transposed convolutional layers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, NullLocator
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from fcn.models.model_options import Fcn32s
from fcn.models.upsampling import PIXELS, Grid, Upsampling
from fcn.visualization.figure_style import new_figure, render_figure

MAX_CELL_SIDE = 400  # longer side of each image in the figure, pixels


@dataclass(frozen=True)
class UpsamplingComparison:
    """Results of both ways to upsample one image.

    Attributes:
        transposed, interpolated: upsampled images, float32 [3, H, W], 0 to 1.
        border: width of the darkened border, pixels.
    """

    transposed: Tensor
    interpolated: Tensor
    border: int

    @property
    def difference(self) -> Tensor:
        """Largest absolute difference over the three colours, float32 [H, W]."""
        return (self.transposed - self.interpolated).abs().amax(dim=0)

    def extremes(self) -> tuple[float, float]:
        """Return the largest difference inside and at the border; inside is NaN if the border is the whole image."""
        outside = self.difference
        inside = outside[self.border : -self.border, self.border : -self.border].clone()
        outside[self.border : -self.border, self.border : -self.border] = 0
        return float(inside.max()) if inside.numel() else math.nan, float(outside.max())


def transposed_convolution(factor: int) -> Upsampling:
    """Return the networks' upsampling layer for one channel, frozen and bilinear, with an integer factor.

    Output pixel j lies at (j + 1/2) / factor - 1/2 of the input, as in `interpolate(align_corners=False)`. For an even
    factor s this requires a kernel of 2s, centred between two pixels, and padding s/2 (d2l's layer); for an odd one a
    kernel of 2s - 1, centred on a pixel, and padding (s - 1)/2.
    """
    source = Grid(factor, (factor - 1) / 2)
    return Upsampling(1, source=source, target=PIXELS, config=Fcn32s(upsample_trainable=False))


def compare_upsampling(image: Image.Image, factor: int) -> UpsamplingComparison:
    """Upsample an RGB image both ways."""
    # Every colour is a one-channel image: with three channels, most of the kernel would be zero.
    colors = torch.from_numpy(np.array(image)).permute(2, 0, 1)[:, None] / 255
    transposed = transposed_convolution(factor)(colors)
    interpolated = F.interpolate(colors, scale_factor=factor, mode="bilinear", align_corners=False)
    return UpsamplingComparison(transposed[:, 0], interpolated[:, 0], border=factor // 2)


def describe_upsampling(compared: UpsamplingComparison, factor: int) -> list[str]:
    """Describe sizes and differences in three lines, for the console and the figure."""
    _, height, width = compared.transposed.shape
    inside, border = compared.extremes()
    rounding = "the border is the whole image" if math.isnan(inside) else f"at most {inside:.1e}, which is rounding"
    pixels = f"{compared.border} pixel{'s' * (compared.border > 1)}"
    return [
        f"{width // factor}x{height // factor} to {width}x{height} pixels; differences on a scale from 0 to 1",
        f"inside: {rounding}",
        f"at the border, {pixels} wide: at most {border:.3f}, because the padding is zero",
    ]


def draw_upsampling_comparison(compared: UpsamplingComparison, factor: int) -> Image.Image:
    """Draw both upsampled images and their difference: whole, and enlarged at the largest difference."""
    _, height, width = compared.transposed.shape
    whole = Box(0, 0, height, width)
    detail = _largest_difference(compared.difference, side=8 * factor)
    upper, lower = (4.0 * min(1.4, max(0.25, box.height / box.width)) for box in (whole, detail))  # inches, as below
    inches = 13.5, upper + lower + 2.4
    figure = new_figure(*inches)
    figure.set_layout_engine("constrained", w_pad=0.1, h_pad=0.1, rect=(0, 0.8 / inches[1], 1, 1 - 0.8 / inches[1]))
    axes = figure.subplots(2, 3, height_ratios=[upper, lower])
    pixels = [compared.transposed, compared.interpolated, compared.difference[None]]
    kernel = f"kernel {2 * factor - factor % 2}, stride {factor}, padding {factor // 2}"
    titles = (f"transposed convolution\n{kernel}", "interpolate\nbilinear, align_corners=False", "absolute difference")
    for column, (title, picture) in enumerate(zip(titles, pixels, strict=True)):
        above, below = axes[:, column]
        image_artist = _show(above, picture, whole)
        above.set_title(title, fontsize=11)
        above.add_patch(_outline(detail))
        _show(below, picture, detail)
        below.set_title("largest difference, enlarged", fontsize=11)
    figure.colorbar(image_artist, ax=axes[:, 2], shrink=0.6)
    text = "\n".join(describe_upsampling(compared, factor))
    figure.text(0.5, 0.12 / inches[1], text, ha="center", va="bottom", linespacing=1.5)
    return render_figure(figure)


class Box(NamedTuple):
    """Part of an image, pixels."""

    top: int
    left: int
    height: int
    width: int


def _largest_difference(difference: Tensor, *, side: int) -> Box:
    """Return the square of `side` pixels around the largest difference, clipped to the image."""
    height, width = difference.shape
    row, column = divmod(int(difference.argmax()), width)
    box_height, box_width = min(side, height), min(side, width)
    top = min(max(0, row - box_height // 2), height - box_height)
    left = min(max(0, column - box_width // 2), width - box_width)
    return Box(top, left, box_height, box_width)


def _outline(box: Box) -> Rectangle:
    corner = box.left - 0.5, box.top - 0.5
    return Rectangle(corner, box.width, box.height, fill=False, edgecolor="#0072b2", linewidth=1.5, clip_on=False)


def _show(axes: Axes, pixels: Tensor, box: Box) -> AxesImage:
    """Draw a part of float [C, H, W], 0 to 1; one channel in shades of red.

    A difference is shrunk by its maximum, because an average would hide a border one pixel wide.
    """
    part = pixels[:, box.top : box.top + box.height, box.left : box.left + box.width]
    scale = min(1.0, MAX_CELL_SIDE / max(box.height, box.width))
    size = max(1, round(box.height * scale)), max(1, round(box.width * scale))
    shrink = F.adaptive_max_pool2d if len(part) == 1 else F.adaptive_avg_pool2d
    picture = shrink(part, size).clamp(0, 1).permute(1, 2, 0).numpy()
    edges = (box.left - 0.5, box.left + box.width - 0.5, box.top + box.height - 0.5, box.top - 0.5)
    axes.tick_params(labelsize=8)
    for axis, length in ((axes.xaxis, box.width), (axes.yaxis, box.height)):
        slim = length < 0.2 * max(box.height, box.width)  # labels would overlap
        axis.set_major_locator(NullLocator() if slim else MaxNLocator(integer=True, nbins=6))
    return axes.imshow(picture, cmap="Reds", vmin=0, vmax=1, extent=edges, interpolation="nearest")

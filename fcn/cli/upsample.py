"""Upsamples an image by a transposed convolution with the bilinear kernel, beside torch's own interpolation.

    python scripts/upsample.py input=photo.jpg factor=2

Writes a picture of both and of their difference: rounding inside, while at the border the transposed convolution
fades, because outside the image counts as zero. Source: the FCN chapter of "Dive into Deep Learning", section
14.11.2, initialising transposed convolutional layers.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from fcn.cli.hydra_entry import run_command
from fcn.config import ConfigError, ModelConfig, setting

if TYPE_CHECKING:  # slow to import, so at run time where they are used: not for --help and completion
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage
    from matplotlib.patches import Rectangle
    from torch import Tensor

    from fcn.models.upsampling import Upsampling

MAX_PIXELS = 4096 * 4096
"""Of the upsampled image; float32 maps of it then take about 1 GB in all."""

SHOWN_PIXELS = 400  # longer side of each picture of the comparison


@dataclass(kw_only=True, slots=True)
class UpsampleConfig:
    input: str | None = setting(None, "image to upsample; must be given")
    factor: int = setting(2, "how many times as high and wide", low=2, high=64)
    output: str | None = setting(None, "PNG to write; null: <name of input>_upsampled.png in this folder")


@dataclass(frozen=True)
class Comparison:
    """Both ways to upsample one image.

    Attributes:
        transposed, interpolated: float32 [3, H, W], 0 to 1: by the transposed convolution, by interpolation.
        border: width in pixels of what fades at each side.
    """

    transposed: Tensor
    interpolated: Tensor
    border: int

    @property
    def difference(self) -> Tensor:
        """The largest absolute difference over the three colours, float32 [H, W]."""
        return (self.transposed - self.interpolated).abs().amax(dim=0)

    def extremes(self) -> tuple[float, float]:
        """Largest difference inside and at the border; inside is NaN for an image that is border alone."""
        outside = self.difference
        inside = outside[self.border : -self.border, self.border : -self.border].clone()
        outside[self.border : -self.border, self.border : -self.border] = 0
        return float(inside.max()) if inside.numel() else math.nan, float(outside.max())


def transposed_convolution(factor: int) -> Upsampling:
    """The networks' layer for one channel, frozen, that makes a map `factor` times as high and wide, bilinearly.

    Output pixel j lies at (j + 1/2) / factor - 1/2 of the input, as in `interpolate(align_corners=False)`. For an even
    factor s this takes a kernel of 2s, which has its centre between two pixels, and padding s/2 (the chapter's
    layer); for an odd one a kernel of 2s - 1, with its centre on a pixel, and padding (s - 1)/2.
    """
    from fcn.models.upsampling import PIXELS, Grid, Upsampling

    source = Grid(factor, (factor - 1) / 2)
    return Upsampling(1, source=source, target=PIXELS, config=ModelConfig(upsample_trainable=False))


def compare(image: Image.Image, factor: int) -> Comparison:
    """Upsample an RGB image both ways."""
    import torch
    from torch.nn import functional as F

    # Every colour is an image of one channel: with three, most of the kernel would be zero.
    colors = torch.from_numpy(np.array(image)).permute(2, 0, 1)[:, None] / 255
    transposed = transposed_convolution(factor)(colors)
    interpolated = F.interpolate(colors, scale_factor=factor, mode="bilinear", align_corners=False)
    return Comparison(transposed[:, 0], interpolated[:, 0], border=factor // 2)


def upsample(config: UpsampleConfig) -> Comparison:
    """The whole job: read, upsample, print, write the picture.

    Raises:
        ConfigError: if the input is no image or too large, or the output cannot be written.
    """
    from fcn.visualization.png_files import save_png

    if config.input is None:
        raise ConfigError("input must name the image to upsample; use input=photo.jpg")
    source = Path(config.input)
    output = _output(config, source)
    image = read_image(source, config.factor)
    compared = compare(image, config.factor)
    for line in _lines(compared, config.factor):
        print(line)
    try:
        save_png(comparison_figure(compared, config.factor), output)
    except OSError as error:
        raise ConfigError(
            f"output (={output}) must be a file that can be written: {error.strerror or error}"
        ) from error
    print(f"written to {output}")
    return compared


def _output(config: UpsampleConfig, source: Path) -> Path:
    output = Path(f"{source.stem}_upsampled.png" if config.output is None else config.output)
    if output.suffix.lower() != ".png":
        raise ConfigError(f"output (={output}) must end in .png; use output={output.with_suffix('.png')}")
    if output.resolve() == source.resolve():
        raise ConfigError(f"output (={output}) must not be the input, which it would overwrite; use another name")
    return output


def read_image(path: Path, factor: int) -> Image.Image:
    """An image of any mode as RGB, turned upright, known not to be too large once it is upsampled.

    Raises:
        ConfigError: if it is absent, no image, or too large.
    """
    from fcn.data.voc import decoding_problem, to_rgb

    if not path.is_file():
        raise ConfigError(f"input (={path}) must be an image file{'' if path.exists() else ', but it is absent'}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our limit is lower
            opened = Image.open(path)
        with opened:
            _check_size(path, opened.size, factor)
            return to_rgb(ImageOps.exif_transpose(opened))
    except ConfigError:
        raise
    except Exception as error:  # PIL lets errors of many codecs through: OSError, SyntaxError, struct.error
        raise ConfigError(f"input (={path}) must be a readable image: {decoding_problem(error)}") from error


def _check_size(path: Path, size: tuple[int, int], factor: int) -> None:
    width, height = size
    if width * height * factor**2 <= MAX_PIXELS:
        return
    largest = math.isqrt(MAX_PIXELS // (width * height))
    scale = math.sqrt(MAX_PIXELS / (width * height)) / factor
    smaller = f"shrink it to {max(1, int(width * scale))}x{max(1, int(height * scale))}"
    raise ConfigError(
        f"input (={path}, {width}x{height} pixels) must have at most {MAX_PIXELS / 1e6:.1f} million pixels once "
        f"upsampled, not {width * factor}x{height * factor}; {smaller}{f' or use factor={largest}' * (largest > 1)}"
    )


def _lines(compared: Comparison, factor: int) -> list[str]:
    """What was done and how large the difference is, for the console and below the picture."""
    _, height, width = compared.transposed.shape
    inside, border = compared.extremes()
    rounding = "there is none" if math.isnan(inside) else f"at most {inside:.1e}, which is rounding"
    pixels = f"{compared.border} pixel{'s' * (compared.border > 1)}"
    return [
        f"{width // factor}x{height // factor} to {width}x{height} pixels; differences on a scale from 0 to 1",
        f"inside: {rounding}",
        f"at the border, {pixels} wide: at most {border:.3f}, because outside the image counts as zero",
    ]


def comparison_figure(compared: Comparison, factor: int) -> Image.Image:
    """Both upsampled images and their difference: whole, and enlarged where they differ most."""
    from fcn.visualization.figure_style import new_figure, render_figure

    _, height, width = compared.transposed.shape
    whole = Box(0, 0, height, width)
    detail = _where_they_differ(compared.difference, side=8 * factor)
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
        shown = _show(above, picture, whole)
        above.set_title(title, fontsize=11)
        above.add_patch(_outline(detail))
        _show(below, picture, detail)
        below.set_title("where they differ most", fontsize=11)
    figure.colorbar(shown, ax=axes[:, 2], shrink=0.6)
    text = "\n".join(_lines(compared, factor))
    figure.text(0.5, 0.12 / inches[1], text, ha="center", va="bottom", linespacing=1.5)
    return render_figure(figure)


class Box(NamedTuple):
    """A part of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


def _where_they_differ(difference: Tensor, *, side: int) -> Box:
    """The square of `side` pixels, or what of it fits, around the largest difference."""
    height, width = difference.shape
    row, column = divmod(int(difference.argmax()), width)
    box_height, box_width = min(side, height), min(side, width)
    top = min(max(0, row - box_height // 2), height - box_height)
    left = min(max(0, column - box_width // 2), width - box_width)
    return Box(top, left, box_height, box_width)


def _outline(box: Box) -> Rectangle:
    from matplotlib.patches import Rectangle

    corner = box.left - 0.5, box.top - 0.5
    return Rectangle(corner, box.width, box.height, fill=False, edgecolor="#0072b2", linewidth=1.5, clip_on=False)


def _show(axes: Axes, pixels: Tensor, box: Box) -> AxesImage:
    """Draw a part of float [C, H, W], 0 to 1; one channel by a scale of reds, shrunk to its largest values.

    Averages would hide a border one pixel wide.
    """
    from matplotlib.ticker import MaxNLocator, NullLocator
    from torch.nn import functional as F

    part = pixels[:, box.top : box.top + box.height, box.left : box.left + box.width]
    scale = min(1.0, SHOWN_PIXELS / max(box.height, box.width))
    size = max(1, round(box.height * scale)), max(1, round(box.width * scale))
    shrink = F.adaptive_max_pool2d if len(part) == 1 else F.adaptive_avg_pool2d
    picture = shrink(part, size).clamp(0, 1).permute(1, 2, 0).numpy()
    edges = (box.left - 0.5, box.left + box.width - 0.5, box.top + box.height - 0.5, box.top - 0.5)
    axes.tick_params(labelsize=8)
    for axis, length in ((axes.xaxis, box.width), (axes.yaxis, box.height)):
        slim = length < 0.2 * max(box.height, box.width)  # the figures would lie on each other
        axis.set_major_locator(NullLocator() if slim else MaxNLocator(integer=True, nbins=6))
    return axes.imshow(picture, cmap="Reds", vmin=0, vmax=1, extent=edges, interpolation="nearest")


def main() -> None:
    run_command(upsample, config_name="upsample", schema=UpsampleConfig)

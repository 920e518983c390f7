"""Upsample an image by a transposed convolution with the bilinear kernel, and compare it with interpolation.

    python scripts/upsample.py input=photo.jpg factor=2

Writes a figure of both results and their difference.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps

from fcn.cli.hydra_entry import run_command
from fcn.config import ConfigError, setting
from fcn.config.overrides import for_shell

MAX_PIXELS = 4096 * 4096
"""Limit for the upsampled image, whose float32 maps then take about 1 GB."""


@dataclass(kw_only=True, slots=True)
class UpsampleConfig:
    input: str | None = setting(None, "image to upsample; required")
    factor: int = setting(2, "factor for height and width", low=2, high=64)
    output: str | None = setting(None, "PNG file; null: <name of input>_upsampled.png in the current folder")


def upsample(config: UpsampleConfig) -> None:
    """Read the image, upsample it, print the differences and write the figure.

    Raises:
        ConfigError: if the input is not an image or too large, or the output cannot be written.
    """
    # Imported here because they import torch and matplotlib, which --help does not need.
    from fcn.inference import upsampling_comparison
    from fcn.visualization.png_files import save_png

    if config.input is None:
        raise ConfigError("input is required; use input=photo.jpg")
    source = Path(config.input)
    output = _output(config, source)
    compared = upsampling_comparison.compare_upsampling(read_input(source, config.factor), config.factor)
    print(*upsampling_comparison.describe_upsampling(compared, config.factor), sep="\n")
    try:
        save_png(upsampling_comparison.draw_upsampling_comparison(compared, config.factor), output)
    except OSError as error:
        raise ConfigError(f"output (={output}) must be a writable file: {error.strerror or error}") from error
    print(f"written to {output}")


def _output(config: UpsampleConfig, source: Path) -> Path:
    output = Path(f"{source.stem}_upsampled.png" if config.output is None else config.output)
    if output.suffix.lower() != ".png":
        raise ConfigError(f"output (={output}) must end in .png; use {for_shell('output', output.with_suffix('.png'))}")
    if output.resolve() == source.resolve():
        raise ConfigError(f"output (={output}) must not be the input; use another name")
    return output


def read_input(path: Path, factor: int) -> Image.Image:
    """Read an image of any mode as RGB, in its EXIF orientation.

    Raises:
        ConfigError: if it is missing, not an image, or too large once upsampled.
    """
    from fcn.data.image_decoding import decoding_problem, to_rgb

    if not path.is_file():
        raise ConfigError(f"input (={path}) must be an {'' if path.exists() else 'existing '}image file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # our limit is lower
            opened = Image.open(path)
        with opened:
            _check_size(path, opened.size, factor)
            return to_rgb(ImageOps.exif_transpose(opened))
    except ConfigError:
        raise
    except Exception as error:  # PIL passes on errors of many codecs: OSError, SyntaxError, struct.error
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


def main() -> None:
    run_command(upsample, config_name="upsample", schema=UpsampleConfig)

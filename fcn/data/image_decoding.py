"""Decoding of image files: pixels, size and EXIF orientation."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from fcn.errors import DataError

# Invalid EXIF data are ignored, as viewers do. Set once, because `warnings.catch_warnings` is not safe in threads.
warnings.filterwarnings("ignore", message="Corrupt EXIF data", module=r"PIL\.TiffImagePlugin")
# Images of more than 89 million pixels are read as any other. Twice as many are an error, see `decoding_problem`.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

Size = tuple[int, int]  # height, width


def read_image(path: Path, *, upright: bool = False) -> Tensor:
    """Return the pixels of an image file, uint8 [3, H, W] RGB, channels last in memory.

    Grey, palette and CMYK images are converted, an alpha channel is dropped, 16 bits are scaled down to 8.

    Args:
        path: the file.
        upright: whether the EXIF orientation is applied; otherwise the pixels are returned as stored.

    Raises:
        DataError: if the file cannot be decoded, or contains floating-point pixels, whose range is unknown.
    """
    return rgb_pixels(decode(path), path, upright=upright)


def rgb_pixels(image: Image.Image, path: Path, *, upright: bool = False) -> Tensor:
    """Return the pixels of a decoded image, as `read_image`; the path is for messages."""
    if image.mode == "F":
        raise DataError(f"{path} (mode F) must contain integer pixels", "save it as 8-bit RGB")
    pixels = to_rgb(turned_upright(image) if upright else image)
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)


def image_size(path: Path, *, upright: bool = False) -> Size:
    """Return height and width of the pixels that `read_image` returns; reads only the header of the file.

    Raises:
        DataError: if the file is not an image.
    """
    try:
        with Image.open(path) as image:
            swapped = upright and orientation(image) > 4
            return (image.width, image.height) if swapped else (image.height, image.width)
    except Exception as error:  # as in decode
        raise unreadable(path, error) from error


def stored_orientation(path: Path) -> int:
    """Return the EXIF orientation of an image file, see `orientation`; reads only the header of the file.

    Raises:
        DataError: if the file is not an image.
    """
    try:
        with Image.open(path) as image:
            return orientation(image)
    except Exception as error:  # as in decode
        raise unreadable(path, error) from error


def orientation(image: Image.Image) -> int:
    """Return the EXIF orientation of an image, 1 to 8; 1 is upright, and from 5 on height and width are swapped."""
    if image.format == "TIFF":  # Pillow applies the orientation of a TIFF file when it decodes the file
        return 1
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # invalid EXIF data; PIL passes on errors of many types
        return 1
    return value if value in range(1, 9) else 1


def turned_upright(image: Image.Image) -> Image.Image:
    """Return an image turned according to its EXIF orientation."""
    return ImageOps.exif_transpose(image) if orientation(image) > 1 else image


def decode(path: Path) -> Image.Image:
    """Return a decoded image.

    Raises:
        DataError: if the file cannot be decoded.
    """
    try:
        image = Image.open(path)
        with image:
            image.load()
    except Exception as error:  # PIL passes on errors of many codecs: OSError, SyntaxError, struct.error
        raise unreadable(path, error) from error
    return image


def unreadable(path: Path, error: Exception) -> DataError:
    """Return the error for a file that cannot be decoded."""
    problem = f"{path} must be a readable image: {decoding_problem(error)}"
    return DataError(problem, "restore it or leave it out")


def decoding_problem(error: Exception) -> str:
    """Describe why a file could not be decoded, without its name."""
    if isinstance(error, UnidentifiedImageError):
        return "unknown image format"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels"
    return " ".join(str(error).split()) or type(error).__name__


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to 8-bit RGB: 16 bits are scaled down, an alpha channel is dropped."""
    # PIL's own conversion clips 16 bits at 255, which makes such an image nearly white.
    if image.mode.startswith("I"):
        sixteen = np.asarray(image).astype(np.int64).clip(0, 65535)
        image = Image.fromarray((sixteen // 256).astype(np.uint8))
    # PIL warns if a palette with transparent entries goes to RGB at once.
    if image.mode == "P":
        image = image.convert("RGBA")
    return image.convert("RGB")

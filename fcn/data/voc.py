"""Pascal VOC 2012 segmentation on disk, and other datasets in its layout: images and masks.

Facts: 1464 train and 1449 val images (2913 trainval) with masks of equal size, sides of at most 500 pixels.
21 classes with the background, in `fcn.config.VOC_CLASSES`; 255 is void, along the borders of objects and on
difficult ones. Masks are palette PNGs: the class is the palette index; the palette is for display only. The list
`train_aug` (10582 images, Hariharan et al. 2011) is not part of VOC.

Source: Everingham et al., "The Pascal Visual Object Classes Challenge", and the VOC2012 development kit.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from fcn.config import IGNORE_INDEX
from fcn.data.split_lists import AUG_MASKS, Pair
from fcn.errors import DataError

Size = tuple[int, int]  # height, width


def read_pair(pair: Pair, num_classes: int) -> tuple[Tensor, Tensor]:
    """Return image, uint8 [3, H, W] RGB, and mask, uint8 [H, W], of one pair.

    Raises:
        DataError: if a file cannot be read, see `read_image` and `read_mask`, or the sizes differ.
    """
    image, mask = read_image(pair.image), read_mask(pair.mask, num_classes)
    if image.shape[1:] != mask.shape:
        problem = f"{pair.image} {tuple(image.shape[1:])} must have the size of {pair.mask} {tuple(mask.shape)}"
        raise DataError(problem, "restore both from the same archive")
    return image, mask


def read_image(path: Path) -> Tensor:
    """Return the stored pixels of an image file, uint8 [3, H, W] RGB, channels last in memory.

    Grey, palette and CMYK images are converted, an alpha channel is dropped, 16 bits are scaled down to 8. An
    EXIF orientation is not applied, because VOC's masks match the pixels as stored.

    Raises:
        DataError: if the file cannot be decoded, or contains floating-point pixels, whose range is unknown.
    """
    image = _decode(path)
    if image.mode == "F":
        raise DataError(f"{path} (mode F) must contain integer pixels", "save it as 8-bit RGB")
    return torch.from_numpy(np.array(to_rgb(image))).permute(2, 0, 1)


def read_mask(path: Path, num_classes: int) -> Tensor:
    """Return the palette indices of a mask file, uint8 [H, W]: classes 0 to num_classes - 1, and 255 for void.

    Raises:
        DataError: if the file cannot be decoded, is not a palette image, or contains another value.
    """
    image = _decode(path)
    # SegmentationClassAug is usually distributed as grey PNGs, whose grey value is the index. Anywhere else a grey
    # mask is the result of a conversion, and its values are unrelated to classes.
    allowed = ("P", "L") if path.parent.name == AUG_MASKS else ("P",)
    if image.mode not in allowed:
        problem = f"{path} (mode {image.mode}) must be a palette PNG (mode P), whose index is the class"
        raise DataError(problem, "restore VOC's original file; docs/tutorial.md shows how to convert other masks")
    mask = np.array(image)
    invalid = np.unique(mask[(mask >= num_classes) & (mask != IGNORE_INDEX)])
    if invalid.size:
        values = ", ".join(map(str, invalid[:5]))
        problem = f"{path} (values {values}) must contain only 0 to {num_classes - 1} and {IGNORE_INDEX}"
        raise DataError(problem, "list every class in data.classes, or restore the mask")
    return torch.from_numpy(mask)


def image_size(path: Path) -> Size:
    """Return height and width of an image file; reads only its header.

    Raises:
        DataError: if the file is not an image.
    """
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except Exception as error:  # as in _decode
        raise _unreadable(path, error) from error


def _decode(path: Path) -> Image.Image:
    try:
        image = Image.open(path)
        with image:
            image.load()
    except Exception as error:  # PIL passes on errors of many codecs: OSError, SyntaxError, struct.error
        raise _unreadable(path, error) from error
    return image


def _unreadable(path: Path, error: Exception) -> DataError:
    problem = f"{path} must be a readable image: {decoding_problem(error)}"
    return DataError(problem, "restore it or remove it from the list")


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

"""Class masks as RGB images: class colours, classes laid over the image, and wrong pixels marked in it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fcn.config import IGNORE_INDEX
from fcn.data.palette import color_map, palette_image

ERROR_COLOR = (214, 0, 58)
"""Colour of wrong pixels: different from all class colours, and dark enough to be visible in greyscale."""

_PALE = 160  # grey level to which black pixels of the image are lightened in an error map


def colorize(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a mask [H, W] in VOC's class colours, uint8 [H, W, 3]; void (255) is the devkit's cream, 224 224 192."""
    return color_map()[mask]


def overlay(image: NDArray[np.uint8], mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Blend the class colours of a mask into its image; background and void stay unchanged.

    Classes are half transparent, except on their outermost pixels.

    Args:
        image: uint8 [H, W, 3], RGB.
        mask: uint8 [H, W], class indices.

    Returns:
        uint8 [H, W, 3].
    """
    below, right = mask[1:] != mask[:-1], mask[:, 1:] != mask[:, :-1]
    outline = np.zeros(mask.shape, bool)
    outline[1:] |= below
    outline[:-1] |= below
    outline[:, 1:] |= right
    outline[:, :-1] |= right
    colors = np.asarray(palette_image(mask).convert("RGB"))
    differing = image ^ colors
    half = (image & colors) + (differing >> 1)
    half += differing & half & 1  # half values are rounded to even
    # Pillow selects pixels several times as fast as NumPy.
    blended = Image.fromarray(half)
    blended.paste(Image.fromarray(colors), mask=Image.fromarray(outline))
    blended.paste(Image.fromarray(image), mask=Image.fromarray((mask == 0) | (mask == IGNORE_INDEX)))
    return np.array(blended)


def error_map(image: NDArray[np.uint8], target: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the error map: wrong pixels in `ERROR_COLOR`, void in its colour, correct pixels in pale grey.

    The pale image shows where in the scene the errors are.

    Args:
        image: uint8 [H, W, 3], RGB.
        target: uint8 [H, W], class indices; void (255) counts as neither correct nor wrong.
        prediction: uint8 [H, W], class indices.

    Returns:
        uint8 [H, W, 3].
    """
    grey = image @ np.array([0.299, 0.587, 0.114])  # luma of ITU-R BT.601
    pale = np.rint(_PALE + (255 - _PALE) * grey / 255).astype(np.uint8)
    errors = np.repeat(pale[..., None], 3, axis=2)
    errors[prediction != target] = ERROR_COLOR
    void = target == IGNORE_INDEX
    errors[void] = colorize(target[void])
    return errors

"""Masks as pictures of the image's size: in colour, over the image, against the target."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fcn.config import IGNORE_INDEX
from fcn.data.palette import color_map

Sample = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]
"""Image [H, W, 3], target [H, W] and prediction [H, W], all uint8 and of one size."""

_PALE = 160  # grey of what is black in the image

ERROR_COLOR = (214, 0, 58)
"""Wrong pixels of an error map: a red no class has, so much darker than the pale image that hue is not needed."""


def colorize(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """VOC colours of a mask [H, W], as uint8 [H, W, 3]; void (255) is the devkit's off-white, 224 224 192."""
    return color_map()[mask]


def overlay(image: NDArray[np.uint8], mask: NDArray[np.uint8], *, alpha: float = 0.5) -> NDArray[np.uint8]:
    """The image with its classes laid over it in VOC colours, uint8 [H, W, 3]; background and void untouched.

    Args:
        image: uint8 [H, W, 3], RGB.
        mask: uint8 [H, W], class indices.
        alpha: opacity of the classes, 0 to 1; the outermost pixels of a class are twice as opaque.

    Raises:
        ValueError: if the sizes differ or alpha is out of range.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha (={alpha}) must be between 0 and 1; 0.5 shows image and classes alike")
    check_sizes(image, mask, name="mask")
    opacity = np.where(_boundary(mask), min(1.0, 2 * alpha), alpha)
    opacity[(mask == 0) | (mask == IGNORE_INDEX)] = 0
    blended = image + opacity[..., None] * (colorize(mask).astype(np.float64) - image)
    return np.rint(blended).astype(np.uint8)


def _boundary(mask: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels with another value above, below, left or right of them."""
    padded = np.pad(mask, 1, mode="edge")
    neighbours = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    boundary: NDArray[np.bool_] = np.any([mask != neighbour for neighbour in neighbours], axis=0)
    return boundary


def error_map(image: NDArray[np.uint8], target: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Where a prediction is wrong, uint8 [H, W, 3]: wrong pixels in `ERROR_COLOR`, void in its cream.

    Correct pixels show the image itself, grey and pale, so that one sees where the errors lie.

    Args:
        image: uint8 [H, W, 3], RGB.
        target: uint8 [H, W], class indices; void (255) is neither right nor wrong.
        prediction: uint8 [H, W], class indices.

    Raises:
        ValueError: if the sizes differ.
    """
    check_sizes(image, target, name="target")
    check_sizes(image, prediction, name="prediction")
    grey = image @ np.array([0.299, 0.587, 0.114])  # luma of ITU-R BT.601
    pale = np.rint(_PALE + (255 - _PALE) * grey / 255).astype(np.uint8)
    errors = np.repeat(pale[..., None], 3, axis=2)
    errors[prediction != target] = ERROR_COLOR
    void = target == IGNORE_INDEX
    errors[void] = colorize(target[void])
    return errors


def check_sizes(image: NDArray[np.uint8], mask: NDArray[np.uint8], *, name: str) -> None:
    """Check that a mask fits its image.

    Raises:
        ValueError: naming the mask as `name`, if it does not, or if the image is not [H, W, 3].
    """
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image (shape {image.shape}) must be [H, W, 3]; convert it to RGB")
    if mask.shape != image.shape[:2]:
        raise ValueError(
            f"{name} (shape {mask.shape}) must have the image's height and width {image.shape[:2]}; "
            "resize it by nearest neighbour"
        )

"""Class masks as RGB images: class colours, and classes laid over the image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fcn.config import IGNORE_INDEX
from fcn.data.palette import color_map


def colorize(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a mask [H, W] in VOC's class colours, uint8 [H, W, 3]; void (255) is the devkit's cream, 224 224 192."""
    return color_map()[mask]


def overlay(image: NDArray[np.uint8], mask: NDArray[np.uint8], *, alpha: float = 0.5) -> NDArray[np.uint8]:
    """Blend the class colours of a mask into its image; background and void stay unchanged.

    Args:
        image: uint8 [H, W, 3], RGB.
        mask: uint8 [H, W], class indices.
        alpha: opacity of the classes, 0 to 1. It is doubled on the outermost pixels of a class.

    Returns:
        uint8 [H, W, 3].

    Raises:
        ValueError: if the sizes differ or alpha is out of range.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha (={alpha}) must be between 0 and 1; use 0.5")
    check_sizes(image, mask, name="mask")
    opacity = np.where(_boundary(mask), min(1.0, 2 * alpha), alpha)
    opacity[(mask == 0) | (mask == IGNORE_INDEX)] = 0
    blended = image + opacity[..., None] * (colorize(mask).astype(np.float64) - image)
    return np.rint(blended).astype(np.uint8)


def _boundary(mask: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Return the pixels with another value above, below, left or right of them, bool [H, W]."""
    padded = np.pad(mask, 1, mode="edge")
    neighbours = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    boundary: NDArray[np.bool_] = np.any([mask != neighbour for neighbour in neighbours], axis=0)
    return boundary


def check_sizes(image: NDArray[np.uint8], mask: NDArray[np.uint8], *, name: str) -> None:
    """Check that a mask has the size of its image.

    Raises:
        ValueError: if it has not, or if the image is not [H, W, 3]. The message calls the mask `name`.
    """
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image (shape {image.shape}) must be [H, W, 3]; convert it to RGB")
    if mask.shape != image.shape[:2]:
        raise ValueError(
            f"{name} (shape {mask.shape}) must have the image's height and width {image.shape[:2]}; "
            "resize it by nearest neighbour"
        )

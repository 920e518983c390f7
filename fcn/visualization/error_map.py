"""Error map: the wrong pixels of a prediction, marked in the pale image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fcn.config import IGNORE_INDEX
from fcn.visualization.masks import check_sizes, colorize

ERROR_COLOR = (214, 0, 58)
"""Colour of wrong pixels: no class has this red, and it is dark enough to stand out without its hue."""

_PALE = 160  # grey level to which black pixels of the image are lightened


def error_map(image: NDArray[np.uint8], target: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the error map: wrong pixels in `ERROR_COLOR`, void in its colour, correct pixels in pale grey.

    The pale image shows where in the scene the errors are.

    Args:
        image: uint8 [H, W, 3], RGB.
        target: uint8 [H, W], class indices; void (255) is neither right nor wrong.
        prediction: uint8 [H, W], class indices.

    Returns:
        uint8 [H, W, 3].

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

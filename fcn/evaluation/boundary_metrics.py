"""Scores near the outlines of objects, where a coarse stride has the largest effect.

The band of width w contains the non-void pixels with a pixel of another label, void included, within chessboard
distance w, that is, among the (2w + 1) x (2w + 1) pixels around them. Comparing bands of growing width separates
blurred outlines from wrong classes.

Source: the trimap of Kohli, Ladický and Torr 2009, "Robust higher order potentials for enforcing label consistency", as
Krähenbühl and Koltun 2011 and DeepLab (Chen et al. 2015) use it. VOC draws void along outlines; the distance is then
measured from the edge of the void, as in DeepLab. Where two classes touch without void, it is measured from the border.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fcn.config import IGNORE_INDEX
from fcn.evaluation.metrics import confusion_matrix


def boundary_bands(mask: Tensor, widths: Sequence[int]) -> Tensor:
    """Return the pixels in the band of each width, bool [W, H, W'] for W widths and a mask [H, W'].

    Args:
        mask: uint8 [H, W'], classes and 255 for void, which is in no band.
        widths: chessboard distances in pixels, increasing from 1 or more.

    Raises:
        ValueError: if the widths do not increase from 1 or more.
    """
    if any(width <= before for before, width in zip([0, *widths], widths, strict=False)):
        raise ValueError(f"widths (={list(widths)}) must rise from 1 or more; use {sorted(set(widths) - {0})}")
    labels = mask.float()
    # All labels of a window are equal if the maximum equals the minimum, which is minus the maximum of -labels.
    extremes = torch.stack([labels, -labels])
    bands, reached = [], 0
    for width in widths:
        extremes = _window_maximum(extremes, radius=width - reached)  # extends the previous window
        reached = width
        bands.append((extremes[0] != -extremes[1]) & (mask != IGNORE_INDEX))
    return torch.stack(bands) if bands else mask.new_zeros(0, *mask.shape, dtype=torch.bool)


def _window_maximum(values: Tensor, *, radius: int) -> Tensor:
    """Return the maximum within chessboard distance `radius`, inside the image; float [C, H, W]."""
    # One axis after the other: 4 r instead of 4 r^2 comparisons per pixel. max_pool2d pads with minus infinity.
    size = 2 * radius + 1
    along_columns = F.max_pool2d(values, (size, 1), stride=1, padding=(radius, 0))
    return F.max_pool2d(along_columns, (1, size), stride=1, padding=(0, radius))


def boundary_confusions(prediction: Tensor, target: Tensor, widths: Sequence[int], *, num_classes: int) -> Tensor:
    """Return the confusion matrix of the pixels in each band of the target, int64 [W, C, C] for W widths.

    Args:
        prediction: integer [H, W'], classes in [0, C).
        target: uint8 [H, W'], classes and 255 for void.
        widths: see `boundary_bands`.
        num_classes: number of classes C.
    """
    matrices = [
        confusion_matrix(prediction, target.masked_fill(~band, IGNORE_INDEX), num_classes=num_classes)
        for band in boundary_bands(target, widths)
    ]
    return torch.stack(matrices) if matrices else torch.zeros(0, num_classes, num_classes, dtype=torch.int64)

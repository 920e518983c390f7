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
from torch import Tensor

from fcn.config import IGNORE_INDEX
from fcn.evaluation.metrics import NUM_TARGETS, count_cells


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
    # A pixel is in the band of width w if the band of width 1, before void is excluded, has a pixel within w - 1: on
    # the way to a pixel of another label, two neighbours have different labels.
    near, bands = _has_other_neighbour(mask), []
    for width in range(1, max(widths, default=0) + 1):
        if width > 1:
            near = _dilated(near)
        if width in widths:
            bands.append(near & (mask != IGNORE_INDEX))
    return torch.stack(bands) if bands else mask.new_zeros(0, *mask.shape, dtype=torch.bool)


def _has_other_neighbour(mask: Tensor) -> Tensor:
    """Return which pixels differ from one of their eight neighbours, bool [H, W']."""
    differing = torch.zeros_like(mask, dtype=torch.bool)
    pairs = [
        ((slice(1, None), slice(None)), (slice(None, -1), slice(None))),
        ((slice(None), slice(1, None)), (slice(None), slice(None, -1))),
        ((slice(1, None), slice(1, None)), (slice(None, -1), slice(None, -1))),
        ((slice(1, None), slice(None, -1)), (slice(None, -1), slice(1, None))),
    ]
    for one, other in pairs:
        differs = mask[one] != mask[other]
        differing[one] |= differs
        differing[other] |= differs
    return differing


def _dilated(pixels: Tensor) -> Tensor:
    """Return which pixels are set or have one of their eight neighbours set, bool [H, W']."""
    columns = pixels.clone()
    columns[1:] |= pixels[:-1]
    columns[:-1] |= pixels[1:]
    dilated = columns.clone()
    dilated[:, 1:] |= columns[:, :-1]
    dilated[:, :-1] |= columns[:, 1:]
    return dilated


def boundary_confusions(prediction: Tensor, target: Tensor, widths: Sequence[int], *, num_classes: int) -> Tensor:
    """Return the confusion matrix of the pixels in each band of the target, int64 [W, C, C] for W widths.

    Args:
        prediction: integer [H, W'], classes in [0, C).
        target: uint8 [H, W'], classes and 255 for void.
        widths: see `boundary_bands`.
        num_classes: number of classes C.
    """
    if not widths:
        return torch.zeros(0, num_classes, num_classes, dtype=torch.int64)
    # Each band contains the ones before, so every pixel is counted once, with the number of bands that lack it.
    missing = (~boundary_bands(target, widths)).sum(dim=0, dtype=torch.int32)
    cells = (missing * NUM_TARGETS + target) * num_classes + prediction
    counts = count_cells(cells.flatten(), num_cells=(len(widths) + 1) * NUM_TARGETS * num_classes)
    matrices = counts.view(len(widths) + 1, NUM_TARGETS, num_classes)[: len(widths), :num_classes]
    return matrices.cumsum(dim=0)

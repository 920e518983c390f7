"""Sizes of the images of a split, of the classes in its images, and of the foreground in random crops."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fcn.config import IGNORE_INDEX, AugmentationConfig
from fcn.data.set_facts import Counts
from fcn.data.transforms import TrainTransform

CROPS_PER_IMAGE = 4
NEARLY_ALL = 0.95
"""Share of the pixels without void from which a crop counts as one of a single class."""


def size_statistics(sizes: Sequence[tuple[int, int]], counts: Counts) -> dict[str, Any]:
    """Return the sizes of images, and of the regions of the classes in them.

    A region is all pixels of a class in one image, without the background. It is one object or several: components are
    not separated. Its side is the square root of its number of pixels.

    Args:
        sizes: height and width of each image, at least one.
        counts: pixels of every class and, last, of void by image, int64 [images, classes + 1].

    Returns:
        `height`, `width` with `minimum`, `median` and `maximum`, and `region_side` with `lower_quartile` and `median`,
        which is None if all pixels are background or void.
    """
    heights, widths = zip(*sizes, strict=True)
    regions = counts[:, 1:-1]
    sides = np.sqrt(regions[regions > 0])
    region_side = None
    if len(sides):
        region_side = {"lower_quartile": float(np.quantile(sides, 0.25)), "median": float(np.median(sides))}
    return {"height": _range(heights), "width": _range(widths), "region_side": region_side}


def _range(values: Sequence[int]) -> dict[str, float]:
    return {"minimum": min(values), "median": float(np.median(values)), "maximum": max(values)}


def crop_statistics(
    sizes: Sequence[tuple[int, int]],
    thin_masks: Sequence[NDArray[np.uint8]],
    crop_size: tuple[int, int],
    augmentation: AugmentationConfig,
) -> dict[str, Any]:
    """Return the classes in random crops of training, `CROPS_PER_IMAGE` of each image.

    Args:
        sizes: height and width of each image.
        thin_masks: their masks, see `SplitReading.thin_masks`.
        crop_size: height and width of the crops.
        augmentation: range of the scale of the crops.

    Returns:
        `size` of the crops, and of those that are not all void: the mean `foreground_share` of their pixels without
        void, and `single_class_share`, the share of the crops in which one class has at least `NEARLY_ALL` of them.
    """
    transform, no_mask = TrainTransform(crop_size, augmentation), torch.empty(0)
    shares = []
    for index, (size, mask) in enumerate(zip(sizes, thin_masks, strict=True)):
        rng = np.random.default_rng(index)
        for _ in range(CROPS_PER_IMAGE):
            change = transform.draw(size, rng, lambda: no_mask)
            axes = zip((change.rows, change.columns), size, mask.shape, strict=True)
            part = mask[tuple(_thin_slice(axis.source, side, kept) for axis, side, kept in axes)]
            shares.append(_pixel_shares(part))
    foreground, largest = np.array([each for each in shares if each is not None]).reshape(-1, 2).T
    return {
        "size": list(crop_size),
        "foreground_share": float(foreground.mean()) if len(foreground) else 0.0,
        "single_class_share": float((largest >= NEARLY_ALL).mean()) if len(largest) else 0.0,
    }


def _thin_slice(source: slice, side: int, kept: int) -> slice:
    """Return the kept rows or columns in a slice of `side` pixels, at least one."""
    first = source.start * kept // side
    return slice(first, max(first + 1, source.stop * kept // side))


def _pixel_shares(part: NDArray[np.uint8]) -> tuple[float, float] | None:
    """Return the shares of the foreground and of the largest class in a part of a mask; None if all is void."""
    counts = np.bincount(part.ravel(), minlength=IGNORE_INDEX + 1)[:IGNORE_INDEX]
    total = counts.sum()
    return (1 - counts[0] / total, counts.max() / total) if total else None

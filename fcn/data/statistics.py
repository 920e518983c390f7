"""Class statistics of a split, from the masks of all its pairs, and the problems of the pairs that are invalid."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fcn.config import IGNORE_INDEX
from fcn.data.datasets import WholeImages
from fcn.data.pair_reader import PairReader
from fcn.data.prefetch import read_ahead
from fcn.data.split_lists import Pair
from fcn.errors import DataError

Counts = NDArray[np.int64]


def read_statistics(
    entries: Sequence[Callable[[], Pair]],
    reader: PairReader,
    *,
    classes: Sequence[str],
    workers: int | None = None,
    advance: Callable[[], object] = lambda: None,
) -> tuple[dict[str, Any], list[str]]:
    """Read every pair of a split; return the statistics of the valid pairs and the problems of the others.

    Args:
        entries: functions that return the pairs, see `DataConfig.entries`.
        reader: reader of the pairs.
        classes: names in the order of the mask indices.
        workers: number of threads; None starts one per core.
        advance: function that is called after every pair.
    """
    counts: list[Counts] = []
    problems: list[str] = []

    def read(pair_of: Callable[[], Pair]) -> Counts:
        return _mask_counts(reader.read(pair_of())[1], len(classes))

    for _, reading in read_ahead(read, entries, threads=workers or os.cpu_count() or 1):
        try:
            counts.append(reading.result())
        except DataError as error:
            problems.append(str(error))
        advance()
    return summarize(np.array(counts, np.int64).reshape(len(counts), len(classes) + 1), classes), problems


def _mask_counts(mask: Tensor, num_classes: int) -> Counts:
    """Return the pixels of every class and, last, of void, int64 [classes + 1]."""
    counts = np.bincount(mask.numpy().ravel(), minlength=IGNORE_INDEX + 1)
    return np.append(counts[:num_classes], counts[IGNORE_INDEX])


def count_pixels(images: WholeImages, indices: Iterable[int]) -> Counts:
    """Return the pixels of every class and, last, of void, int64 [images, classes + 1]; 0 for images without index.

    Raises:
        DataError: if an image is not cached and cannot be decoded.
    """
    counts = np.zeros((len(images), images.num_classes + 1), np.int64)
    for index, pair in read_ahead(images.read, indices):
        counts[index] = _mask_counts(pair.result()[1], images.num_classes)
    return counts


def summarize(counts: Counts, classes: Sequence[str]) -> dict[str, Any]:
    """Return the statistics of a split.

    Args:
        counts: pixels of every class and, last, of void by image, int64 [images, classes + 1].
        classes: names of the classes.

    Returns:
        `images`, `void_pixels`, `void_share` of all pixels, and in `classes` by name: `images` that contain the class,
        its `pixels`, its `share` of the non-void pixels, and its `weight`, which is None for a class without pixels.
    """
    present, pixels = counts[:, :-1] > 0, counts[:, :-1].sum(axis=0)
    void, total = int(counts[:, -1].sum()), int(pixels.sum())
    shares = pixels / max(1, total)
    rows = zip(present.sum(axis=0), pixels, shares, balancing_weights(counts[:, :-1]), strict=True)
    return {
        "images": len(counts),
        "void_pixels": void,
        "void_share": void / max(1, void + total),
        "classes": {
            name: {
                "images": int(images),
                "pixels": int(of_class),
                "share": float(share),
                "weight": None if np.isnan(weight) else float(weight),
            }
            for name, (images, of_class, share, weight) in zip(classes, rows, strict=True)
        },
    }


def balancing_weights(counts: Counts) -> NDArray[np.float64]:
    """Return median-frequency-balancing weights from int64 [images, classes], NaN for a class without pixels.

    The frequency of a class is its share in the non-void pixels of the images that contain it; its weight is the median
    of all frequencies divided by its own (Eigen and Fergus 2015, "Predicting Depth, ...").
    """
    pixels = counts.sum(axis=0)
    pixels_where_present = ((counts > 0) * counts.sum(axis=1, keepdims=True)).sum(axis=0)
    frequencies = np.full(len(pixels), np.nan)
    np.divide(pixels, pixels_where_present, out=frequencies, where=pixels > 0)
    weights: NDArray[np.float64] = np.median(frequencies[pixels > 0]) / frequencies if pixels.any() else frequencies
    return weights

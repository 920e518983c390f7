"""Reading of all pairs of a split, and class statistics of their masks."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcn.data.datasets import WholeImages
from fcn.data.pair_reader import PairReader
from fcn.data.prefetch import read_ahead
from fcn.data.set_facts import Counts, FileFacts, mask_counts
from fcn.data.split_lists import Pair
from fcn.errors import DataError

THIN_SIDE = 64
"""Rows and columns of a mask that are kept in memory to measure crops, at most."""


@dataclass
class SplitReading:
    """What has been read of a split.

    Attributes:
        pairs: valid pairs.
        facts: facts on each of them.
        digests: hash of the pixels of each of their images.
        sizes: height and width of each of their images.
        thin_masks: each of their masks with every n-th row and m-th column only, at most `THIN_SIDE` of each, uint8.
        problems: a line for every other pair.
    """

    pairs: list[Pair] = field(default_factory=list)
    facts: list[FileFacts] = field(default_factory=list)
    digests: list[bytes] = field(default_factory=list)
    sizes: list[tuple[int, int]] = field(default_factory=list)
    thin_masks: list[NDArray[np.uint8]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def read_split_files(
    entries: Sequence[Callable[[], Pair]],
    reader: PairReader,
    *,
    workers: int | None = None,
    advance: Callable[[], object] = lambda: None,
) -> SplitReading:
    """Read every pair of a split.

    Args:
        entries: functions that return the pairs, see `DataConfig.entries`.
        reader: reader of the pairs.
        workers: number of threads; None starts one per core.
        advance: function that is called after every pair.
    """
    reading = SplitReading()

    def read(pair_of: Callable[[], Pair]) -> tuple[Pair, FileFacts, bytes, NDArray[np.uint8], tuple[int, int]]:
        pair = pair_of()
        image, mask, facts = reader.inspect(pair)
        digest = hashlib.sha256(image.permute(1, 2, 0).numpy().tobytes()).digest()
        height, width = mask.shape
        return pair, facts, digest, _thinned(mask.numpy()), (height, width)

    with read_ahead(read, entries, threads=workers or os.cpu_count() or 1) as futures:
        for _, future in futures:
            try:
                pair, facts, digest, thin_mask, size = future.result()
            except DataError as error:
                reading.problems.append(str(error))
            else:
                reading.pairs.append(pair)
                reading.facts.append(facts)
                reading.digests.append(digest)
                reading.thin_masks.append(thin_mask)
                reading.sizes.append(size)
            advance()
    return reading


def _thinned(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    rows, columns = (-(-side // THIN_SIDE) for side in mask.shape)
    thinned: NDArray[np.uint8] = mask[::rows, ::columns].copy()
    return thinned


def count_pixels(images: WholeImages, indices: Iterable[int]) -> Counts:
    """Return the pixels of every class and, last, of void, int64 [images, classes + 1]; 0 for images without index.

    Raises:
        DataError: if an image is not cached and cannot be decoded.
    """
    counts = np.zeros((len(images), images.num_classes + 1), np.int64)
    if facts := images.facts:  # counted when the images were cached
        chosen = list(indices)
        counts[chosen] = facts.counts[chosen]
        return counts
    with read_ahead(images.read, indices) as readings:
        for index, reading in readings:
            counts[index] = mask_counts(reading.result()[1], images.num_classes)
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

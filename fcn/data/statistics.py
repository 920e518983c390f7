"""Class statistics of a split, from the masks of all its pairs, and the problems of the pairs that are invalid."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcn.config import IGNORE_INDEX
from fcn.data import voc
from fcn.data.voc import DataError

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class SplitStatistics:
    """Statistics of the masks of a split; arrays are int64 with one entry per class.

    Attributes:
        num_images: number of valid pairs.
        images: images that contain the class.
        pixels: pixels of the class.
        pixels_where_present: non-void pixels of the images that contain the class.
        void: void pixels.
    """

    num_images: int
    images: Counts
    pixels: Counts
    pixels_where_present: Counts
    void: int

    @classmethod
    def from_counts(cls, counts: Counts) -> SplitStatistics:
        """Compute statistics from int64 [images, classes + 1]: pixels of every class and, last, of void."""
        pixels, void = counts[:, :-1], counts[:, -1]
        present = pixels > 0
        where_present = (present * pixels.sum(axis=1, keepdims=True)).sum(axis=0)
        return cls(len(counts), present.sum(axis=0), pixels.sum(axis=0), where_present, int(void.sum()))

    @property
    def shares(self) -> NDArray[np.float64]:
        """Share of each class in the non-void pixels; zeros if there are none."""
        return self.pixels / max(1, int(self.pixels.sum()))

    @property
    def void_share(self) -> float:
        return self.void / max(1, self.void + int(self.pixels.sum()))

    @property
    def weights(self) -> NDArray[np.float64]:
        """Median-frequency-balancing weights, NaN for a class without pixels.

        The frequency of a class is its share in the non-void pixels of the images that contain it; its weight is the
        median of all frequencies divided by its own (Eigen and Fergus 2015, "Predicting Depth, ...").
        """
        frequencies = np.full(len(self.pixels), np.nan)
        np.divide(self.pixels, self.pixels_where_present, out=frequencies, where=self.pixels > 0)
        present = frequencies[self.pixels > 0]
        return np.median(present) / frequencies if present.size else frequencies

    def class_rows(self, classes: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Return images, pixels, share and weight by class; the weight of a class without pixels is None."""
        columns = (classes, self.images.tolist(), self.pixels.tolist(), self.shares.tolist(), self.weights.tolist())
        return {
            name: {"images": images, "pixels": pixels, "share": share, "weight": None if np.isnan(weight) else weight}
            for name, images, pixels, share, weight in zip(*columns, strict=True)
        }


def read_statistics(
    tree: Path,
    split: str,
    lines: Sequence[tuple[int, str]],
    *,
    num_classes: int,
    workers: int | None = None,
    advance: Callable[[], object] = lambda: None,
) -> tuple[SplitStatistics, list[str]]:
    """Read every pair of a split; return the statistics of the valid pairs and the problems of the others.

    Args:
        tree: the folder VOC2012.
        split: name of the list.
        lines: numbers and texts of its lines, from `voc.split_lines`.
        num_classes: number of classes that masks are checked for.
        workers: number of threads; None starts one per core.
        advance: called after every pair.
    """

    def read(line: tuple[int, str]) -> Counts | DataError:
        try:
            return _pixel_counts(voc.pair_of_line(tree, split, *line), num_classes)
        except DataError as error:
            return error

    counts: list[Counts] = []
    problems: list[str] = []
    # Threads suffice because decoding and counting release Python's lock; processes would each import torch first.
    pool = ThreadPoolExecutor(workers or os.cpu_count())
    try:
        for outcome in pool.map(read, lines):
            if isinstance(outcome, DataError):
                problems.append(str(outcome))
            else:
                counts.append(outcome)
            advance()
    finally:
        pool.shutdown(cancel_futures=True)  # on Ctrl-C, skip the remaining files
    return SplitStatistics.from_counts(np.array(counts, np.int64).reshape(len(counts), num_classes + 1)), problems


def _pixel_counts(pair: voc.Pair, num_classes: int) -> Counts:
    """Return the pixels of every class and, last, of void, int64 [classes + 1]."""
    _, mask = voc.read_pair(pair, num_classes)
    counts = np.bincount(mask.numpy().ravel(), minlength=256)
    return np.append(counts[:num_classes], counts[IGNORE_INDEX])

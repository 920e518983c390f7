"""Intersection over union from confusion matrices, in NumPy: the comparison of runs needs no torch."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class ClassCounts(NamedTuple):
    """Pixels per class from confusion matrices, float64 [..., C], exact below 2^53.

    Attributes:
        hits: pixels of the class in target and prediction.
        unions: pixels of the class in target or prediction.
    """

    hits: Floats
    unions: Floats

    def total(self) -> ClassCounts:
        """Return the sum over the first axis, such as the images."""
        return ClassCounts(self.hits.sum(axis=0), self.unions.sum(axis=0))

    def iou(self) -> Floats:
        """Return the intersection over union of each class, [..., C]; NaN for a class without pixels."""
        return _ratio(self.hits, self.unions)


def class_counts(confusions: NDArray[np.int64]) -> ClassCounts:
    """Return the counts of confusion matrices [..., C, C], whose rows are the target."""
    hits = np.diagonal(confusions, axis1=-2, axis2=-1).astype(np.float64)
    return ClassCounts(hits, confusions.sum(axis=-2) + confusions.sum(axis=-1) - hits)


def mean_iou(ious: Floats) -> Floats:
    """Return the mean over the last axis without NaN; NaN if there is no other value."""
    known = np.isfinite(ious)
    return _ratio(np.where(known, ious, 0).sum(axis=-1), known.sum(axis=-1).astype(np.float64))


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    result: Floats = np.divide(numerator, denominator, out=np.full(denominator.shape, np.nan), where=denominator > 0)
    return result

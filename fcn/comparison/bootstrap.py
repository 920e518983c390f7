"""Mean IoU from counts, and what it would have been on other images: the bootstrap."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

RESAMPLES = 2000
SEED = 0
_CHUNK = 2**22  # numbers of a chunk of resamples: 32 MiB

COVERS = (
    "The interval covers the choice of the evaluated images (they are drawn anew, with replacement, the same ones for "
    "both sides) for the networks as they were trained. It does not cover what another seed would train, nor that "
    "best.ckpt was chosen on these images."
)


class Counts(NamedTuple):
    """Pixels per image and class, from confusion matrices; float64 [N, C], exact below 2^53.

    Attributes:
        hits: of the class in target and prediction alike.
        unions: in target or prediction.
    """

    hits: Floats
    unions: Floats


def counts_of(confusions: NDArray[np.int64]) -> Counts:
    """Counts of matrices [N, C, C], whose rows are the target."""
    hits = np.diagonal(confusions, axis1=1, axis2=2).astype(np.float64)
    return Counts(hits, confusions.sum(axis=1) + confusions.sum(axis=2) - hits)


def class_iou(counts: Counts) -> Floats:
    """IoU per class over all images, [C]; NaN for a class that is neither in a target nor in a prediction."""
    return _ratio(counts.hits.sum(axis=0), counts.unions.sum(axis=0))


def mean_iou(ious: Floats) -> Floats:
    """Mean over the last axis without NaN; NaN where nothing else is left."""
    known = np.isfinite(ious)
    return _ratio(np.where(known, ious, 0).sum(axis=-1), known.sum(axis=-1).astype(np.float64))


def resampled_class_iou(runs: Sequence[Counts], *, resamples: int = RESAMPLES, seed: int = SEED) -> list[Floats]:
    """IoU per class of every run on resampled sets of images, float64 [resamples, C] each.

    A resample draws as many images as there are, with replacement, and adds their counts up. Resample r holds the
    same images in all runs: differences between runs are paired.

    Args:
        runs: counts on the same N images.
        resamples: number of resampled sets.
        seed: of the draws.
    """
    num_images = len(runs[0].hits)
    rng = np.random.default_rng(seed)
    share = np.full(num_images, 1 / num_images)
    step = max(1, _CHUNK // num_images)
    chunks: list[list[Floats]] = [[] for _ in runs]
    for start in range(0, resamples, step):
        times = rng.multinomial(num_images, share, size=min(step, resamples - start)).astype(np.float64)
        for found, counts in zip(chunks, runs, strict=True):
            found.append(_ratio(times @ counts.hits, times @ counts.unions))
    return [np.concatenate(found) for found in chunks]


def interval(differences: Floats) -> tuple[Floats, Floats]:
    """Low and high end of the percentile 95 % interval over the first axis, NaN left out."""
    known = np.isfinite(differences).any(axis=0)
    low, high = np.nanquantile(np.where(known, differences, 0), [0.025, 0.975], axis=0)
    return np.where(known, low, np.nan), np.where(known, high, np.nan)


def _ratio(numerator: Floats, denominator: Floats) -> Floats:
    result: Floats = np.divide(numerator, denominator, out=np.full(denominator.shape, np.nan), where=denominator > 0)
    return result

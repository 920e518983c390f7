"""Confidence intervals: the bootstrap of IoU over the evaluated images."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from fcn.evaluation.scores import ClassCounts, Floats

RESAMPLES = 2000
SEED = 0

INTERVAL_MEANING = (
    "The interval covers the choice of the evaluated images (resampled with replacement, the same images for both "
    "rows) for the networks as trained. It does not cover the variation over seeds, nor the selection of best.ckpt on "
    "these images."
)


def resample_class_iou(counts: ClassCounts, *, resamples: int = RESAMPLES, seed: int = SEED) -> Floats:
    """Return the IoU per class of a run on resampled sets of images, float64 [resamples, C].

    A resample draws N of the N images with replacement and sums their counts. Resample r holds the same images for all
    runs on N images, so that differences between runs are paired.

    Args:
        counts: counts of the run on N images.
        resamples: number of resampled sets.
        seed: seed of the draws.
    """
    times = _draw(len(counts.hits), resamples, seed)
    return ClassCounts(times @ counts.hits, times @ counts.unions).iou()


@lru_cache(maxsize=1)  # all compared runs use the same draws
def _draw(num_images: int, resamples: int, seed: int) -> Floats:
    """Return how often every resample holds every image, float64 [resamples, num_images]."""
    shares = np.full(num_images, 1 / num_images)
    return np.random.default_rng(seed).multinomial(num_images, shares, size=resamples).astype(np.float64)


def percentile_interval(differences: Floats) -> tuple[Floats, Floats]:
    """Return low and high end of the 95 % percentile interval over the first axis, without NaN."""
    known = np.isfinite(differences).any(axis=0)
    low, high = np.nanquantile(np.where(known, differences, 0), [0.025, 0.975], axis=0)
    return np.where(known, low, np.nan), np.where(known, high, np.nan)

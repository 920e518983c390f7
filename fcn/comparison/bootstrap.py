"""Confidence intervals: the bootstrap of IoU over the evaluated images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fcn.evaluation.scores import ClassCounts, Floats

RESAMPLES = 2000
SEED = 0
_CHUNK = 2**22  # numbers in a chunk of resamples: 32 MiB

INTERVAL_MEANING = (
    "The interval covers the choice of the evaluated images (resampled with replacement, the same images for both "
    "rows) for the networks as trained. It does not cover the variation over seeds, nor the selection of best.ckpt on "
    "these images."
)


def resample_class_iou(runs: Sequence[ClassCounts], *, resamples: int = RESAMPLES, seed: int = SEED) -> list[Floats]:
    """Return the IoU per class of every run on resampled sets of images, float64 [resamples, C] each.

    A resample draws N of the N images with replacement and sums their counts. Resample r holds the same images for all
    runs, so that differences between runs are paired.

    Args:
        runs: counts of every run on the same N images.
        resamples: number of resampled sets.
        seed: seed of the draws.
    """
    num_images = len(runs[0].hits)
    rng = np.random.default_rng(seed)
    shares = np.full(num_images, 1 / num_images)
    step = max(1, _CHUNK // num_images)
    chunks: list[list[Floats]] = [[] for _ in runs]
    for start in range(0, resamples, step):
        times = rng.multinomial(num_images, shares, size=min(step, resamples - start)).astype(np.float64)
        for ious, counts in zip(chunks, runs, strict=True):
            ious.append(ClassCounts(times @ counts.hits, times @ counts.unions).iou())
    return [np.concatenate(ious) for ious in chunks]


def percentile_interval(differences: Floats) -> tuple[Floats, Floats]:
    """Return low and high end of the 95 % percentile interval over the first axis, without NaN."""
    known = np.isfinite(differences).any(axis=0)
    low, high = np.nanquantile(np.where(known, differences, 0), [0.025, 0.975], axis=0)
    return np.where(known, low, np.nan), np.where(known, high, np.nan)

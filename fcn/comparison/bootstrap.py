"""Bootstrap over images: IoU on resampled sets of images, and intervals of differences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fcn.evaluation.scores import ClassCounts, Floats

RESAMPLES = 2000
SEED = 0
_CHUNK = 2**22  # numbers of a chunk of resamples: 32 MiB

COVERS = (
    "The interval covers the choice of the evaluated images (they are drawn anew, with replacement, the same ones for "
    "both sides) for the networks as they were trained. It does not cover what another seed would train, nor that "
    "best.ckpt was chosen on these images."
)


def resampled_class_iou(runs: Sequence[ClassCounts], *, resamples: int = RESAMPLES, seed: int = SEED) -> list[Floats]:
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
            found.append(ClassCounts(times @ counts.hits, times @ counts.unions).iou())
    return [np.concatenate(found) for found in chunks]


def interval(differences: Floats) -> tuple[Floats, Floats]:
    """Low and high end of the percentile 95 % interval over the first axis, NaN left out."""
    known = np.isfinite(differences).any(axis=0)
    low, high = np.nanquantile(np.where(known, differences, 0), [0.025, 0.975], axis=0)
    return np.where(known, low, np.nan), np.where(known, high, np.nan)

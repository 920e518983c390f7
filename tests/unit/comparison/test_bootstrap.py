"""Resampled scores against a loop over images with the project's own metrics, and cases with known answers."""

import numpy as np
import pytest
import torch

from fcn.comparison import bootstrap
from fcn.comparison.bootstrap import interval, resampled_class_iou
from fcn.evaluation.metrics import segmentation_scores
from fcn.evaluation.scores import class_counts, mean_iou
from tests.comparisons import random_confusions


def test_resamples_equal_a_loop_that_adds_matrices_up():
    runs = [random_confusions(7, seed=seed, classes=4) for seed in (1, 2)]
    found = resampled_class_iou([class_counts(run) for run in runs], resamples=50, seed=3)
    rng = np.random.default_rng(3)
    for number in range(50):
        times = rng.multinomial(7, [1 / 7] * 7)
        assert times.sum() == 7
        for run, ious in zip(runs, found, strict=True):
            drawn = sum(run[place] for place in range(7) for _ in range(times[place]))
            np.testing.assert_allclose(ious[number], class_counts(np.asarray(drawn)).iou(), rtol=1e-12)
            assert mean_iou(ious[number]) == pytest.approx(segmentation_scores(torch.from_numpy(drawn))["mean_iou"])


def test_chunks_change_nothing(monkeypatch):
    counts = [class_counts(random_confusions(6, seed=seed)) for seed in (0, 1)]
    whole = resampled_class_iou(counts, resamples=20)
    monkeypatch.setattr(bootstrap, "_CHUNK", 6 * 3)  # three resamples at a time; the last chunk holds two
    for one, other in zip(whole, resampled_class_iou(counts, resamples=20), strict=True):
        assert other.shape == (20, 3)
        np.testing.assert_array_equal(one, other)


def test_the_same_run_twice_differs_by_exactly_zero():
    counts = class_counts(random_confusions(40, seed=1))
    one, other = resampled_class_iou([counts, counts])
    assert [float(end) for end in interval(mean_iou(one) - mean_iou(other))] == [0, 0]


def test_one_image_leaves_nothing_to_chance():
    counts = [class_counts(random_confusions(1, seed=seed)) for seed in (0, 1)]
    difference = float(np.subtract(*(mean_iou(one.total().iou()) for one in counts)))
    one, other = resampled_class_iou(counts, resamples=10)
    low, high = interval(mean_iou(one) - mean_iou(other))
    assert float(low) == pytest.approx(difference, abs=1e-15)
    assert float(high) == pytest.approx(difference, abs=1e-15)


def test_the_interval_is_as_wide_as_the_standard_error_says():
    # One class and unions of 100 pixels in every image: the IoU is a mean, whose standard error is known.
    rng = np.random.default_rng(0)
    hits = rng.integers(0, 101, 400)
    confusions = np.zeros((400, 2, 2), np.int64)
    confusions[:, 0, 0], confusions[:, 0, 1] = hits, 100 - hits
    (ious,) = resampled_class_iou([class_counts(confusions)], resamples=4000)
    low, high = interval(ious[:, 0])
    error = hits.std() / 100 / np.sqrt(400)
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.06)
    assert (high + low) / 2 == pytest.approx(hits.mean() / 100, abs=0.2 * error)


def test_a_class_that_a_resample_lacks_is_left_out_of_its_mean():
    confusions = np.zeros((2, 2, 2), np.int64)
    confusions[0, 0, 0] = confusions[1, 1, 1] = 10
    (ious,) = resampled_class_iou([class_counts(confusions)], resamples=40)
    kinds = {tuple("-" if np.isnan(iou) else "1" for iou in row) for row in ious}
    assert kinds == {("1", "1"), ("1", "-"), ("-", "1")}
    assert set(mean_iou(ious).tolist()) == {1.0}


def test_images_of_void_alone_have_no_score_and_warn_of_nothing(recwarn):
    counts = class_counts(np.zeros((3, 2, 2), np.int64))
    (ious,) = resampled_class_iou([counts], resamples=5)
    assert np.isnan(mean_iou(ious)).all()
    assert all(np.isnan(end).all() for end in interval(ious - ious))
    assert not list(recwarn)

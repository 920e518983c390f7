"""Bootstrap of IoU against a loop over images with the evaluation's metrics, and cases with known results."""

import numpy as np
import pytest
import torch

from fcn.comparison.bootstrap import percentile_interval, resample_class_iou
from fcn.evaluation.metrics import segmentation_scores
from fcn.evaluation.scores import class_counts, mean_iou
from tests.comparisons import random_confusions


def test_resamples_equal_a_loop_over_images():
    runs = [random_confusions(7, seed=seed, classes=4) for seed in (1, 2)]
    resampled = [resample_class_iou(class_counts(run), resamples=50, seed=3) for run in runs]
    rng = np.random.default_rng(3)
    for number in range(50):
        times = rng.multinomial(7, [1 / 7] * 7)
        assert times.sum() == 7
        for run, ious in zip(runs, resampled, strict=True):
            confusion = torch.from_numpy(sum(run[place] for place in range(7) for _ in range(times[place])))
            np.testing.assert_allclose(ious[number], class_counts(confusion.numpy()).iou(), rtol=1e-12)
            assert mean_iou(ious[number]) == pytest.approx(segmentation_scores(confusion)["mean_iou"])


def test_interval_over_one_image_has_no_width():
    counts = [class_counts(random_confusions(1, seed=seed)) for seed in (0, 1)]
    difference = float(np.subtract(*(mean_iou(one.total().iou()) for one in counts)))
    one, other = (resample_class_iou(run, resamples=10) for run in counts)
    ends = percentile_interval(mean_iou(one) - mean_iou(other))
    assert [float(end) for end in ends] == [pytest.approx(difference, abs=1e-15)] * 2


def test_interval_width_agrees_with_the_standard_error():
    # One class and unions of 100 pixels in every image: the IoU is a mean with a known standard error.
    rng = np.random.default_rng(0)
    hits = rng.integers(0, 101, 400)
    confusions = np.zeros((400, 2, 2), np.int64)
    confusions[:, 0, 0], confusions[:, 0, 1] = hits, 100 - hits
    ious = resample_class_iou(class_counts(confusions), resamples=4000)
    low, high = percentile_interval(ious[:, 0])
    error = hits.std() / 100 / np.sqrt(400)
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.06)
    assert (high + low) / 2 == pytest.approx(hits.mean() / 100, abs=0.2 * error)


def test_class_missing_from_a_resample_is_left_out_of_its_mean():
    confusions = np.zeros((2, 2, 2), np.int64)
    confusions[0, 0, 0] = confusions[1, 1, 1] = 10
    ious = resample_class_iou(class_counts(confusions), resamples=40)
    kinds = {tuple("-" if np.isnan(iou) else "1" for iou in row) for row in ious}
    assert kinds == {("1", "1"), ("1", "-"), ("-", "1")}
    assert set(mean_iou(ious).tolist()) == {1.0}


def test_images_of_void_have_no_score_and_no_warning(recwarn):
    ious = resample_class_iou(class_counts(np.zeros((3, 2, 2), np.int64)), resamples=5)
    assert np.isnan(mean_iou(ious)).all()
    assert all(np.isnan(end).all() for end in percentile_interval(ious - ious))
    assert not list(recwarn)

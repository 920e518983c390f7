"""Differences of mean IoU between rows whose runs scripts/evaluate.py has evaluated on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from fcn.comparison.bootstrap import percentile_interval
from fcn.comparison.evaluation_records import EvaluationRecord, check_comparable, join_folds, load_evaluations
from fcn.comparison.grouping import RunGroup
from fcn.comparison.run_records import ComparisonError
from fcn.evaluation.scores import Floats, mean_iou

Interval = tuple[float, float]


@dataclass(frozen=True)
class ScoreDifference:
    """Mean IoU of a group minus that of another on the same images, each averaged over the group's runs.

    The runs of a seed on different folds count as one, with the confusion matrix of all their images.

    Attributes:
        problem: the reason why there is no difference; the other attributes are then undefined.
        value: the difference.
        interval: ends of its 95 % interval, see `bootstrap.INTERVAL_MEANING`.
        score: mean IoU of the group.
        score_interval: ends of its 95 % interval.
        classes: names of the classes.
        ious: float64 [2, C], IoU per class of both groups.
        class_intervals: ends of the intervals of the differences per class, float64 [2, C].
        source: the evaluated checkpoints, images and split.
        num_runs: number of evaluated runs of the group.
    """

    problem: str = ""
    value: float = np.nan
    interval: Interval = (np.nan, np.nan)
    score: float = np.nan
    score_interval: Interval = (np.nan, np.nan)
    classes: Sequence[str] = ()
    ious: Floats = field(default_factory=lambda: np.empty((2, 0)))
    class_intervals: Floats = field(default_factory=lambda: np.empty((2, 0)))
    source: str = ""
    num_runs: int = 0


def score_differences(groups: Sequence[RunGroup], baseline: RunGroup, split: str) -> list[ScoreDifference]:
    """Return the difference of every group to the baseline, with a paired bootstrap over the images of a split.

    A resampled difference is the mean over the runs of the group minus the mean over the runs of the baseline, all on
    the same resampled images. On the split of the folds, the images are those of all folds that both groups have.
    """
    try:
        reference = load_evaluations(baseline, split)
    except ComparisonError as error:
        return [ScoreDifference(f"row {baseline.number}: {error}") for _ in groups]
    differences = []
    for group in groups:
        try:
            evaluations = reference if group is baseline else load_evaluations(group, split)
            sides = join_folds(evaluations, reference)
            for evaluation in (*sides[0], *sides[1]):
                check_comparable(evaluation, sides[1][0], f"row {baseline.number}")
        except ComparisonError as error:
            differences.append(ScoreDifference(str(error)))
        else:
            differences.append(_difference(sides[0], sides[1], split, num_runs=len(evaluations)))
    return differences


def _difference(
    group: Sequence[EvaluationRecord], reference: Sequence[EvaluationRecord], split: str, *, num_runs: int
) -> ScoreDifference:
    sides = (group, reference)
    ious = [[one.counts.total().iou() for one in side] for side in sides]
    means = [_mean_over_runs([mean_iou(classes) for classes in side]) for side in ious]
    resampled = [_mean_over_runs([mean_iou(one.resampled) for one in side]) for side in sides]
    by_class = [_mean_over_runs([one.resampled for one in side]) for side in sides]
    checkpoints = " and ".join(sorted({one.checkpoint for side in sides for one in side}))
    return ScoreDifference(
        value=float(means[0] - means[1]),
        interval=_interval(resampled[0] - resampled[1]),
        score=float(means[0]),
        score_interval=_interval(resampled[0]),
        classes=group[0].classes,
        ious=np.stack([_mean_over_runs(side) for side in ious]),
        class_intervals=np.stack(percentile_interval(by_class[0] - by_class[1])),
        source=f"{checkpoints} checkpoints on {len(group[0].names)} images of {split}",
        num_runs=num_runs,
    )


def _interval(resampled: Floats) -> Interval:
    low, high = percentile_interval(resampled)
    return float(low), float(high)


def _mean_over_runs(values: Sequence[Floats]) -> Floats:
    """Return the element-wise mean over runs, without NaN."""
    return mean_iou(np.stack(values, axis=-1))

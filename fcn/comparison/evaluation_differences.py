"""Differences of mean IoU between rows whose runs scripts/evaluate.py has evaluated on the same images."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcn import runs
from fcn.comparison.bootstrap import percentile_interval, resample_class_iou
from fcn.comparison.grouping import RunGroup
from fcn.comparison.run_records import ComparisonError, RunRecord, describe_damage
from fcn.evaluation.scores import ClassCounts, Floats, class_counts, mean_iou
from fcn.runs.atomic_files import sha256_of

STALE = "evaluated before its best checkpoint changed"
NOT_EVALUATED = "not evaluated"

_ROUNDING_ONLY = ("accelerator", "device", "batch_size")  # settings that change scores by no more than rounding


@dataclass(frozen=True)
class EvaluationRecord:
    """Evaluation of a run on a split with N images and C classes.

    Attributes:
        names: names of the images.
        classes: names of the classes.
        settings: inference settings.
        targets: target pixels per image and class, int64 [N, C].
        counts: hits and unions per image and class.
        checkpoint: `best` or `last`, the evaluated checkpoint.
    """

    names: Sequence[str]
    classes: Sequence[str]
    settings: Mapping[str, Any]
    targets: NDArray[np.int64]
    counts: ClassCounts
    checkpoint: str

    @cached_property
    def resampled(self) -> Floats:
        return resample_class_iou(self.counts)


@dataclass(frozen=True)
class ScoreDifference:
    """Mean IoU of a group minus that of another on the same images, each averaged over the group's runs.

    Attributes:
        problem: the reason why there is no difference; the other attributes are then undefined.
        value: the difference.
        interval: ends of its 95 % interval, see `bootstrap.INTERVAL_MEANING`.
        classes: names of the classes.
        ious: float64 [2, C], IoU per class of both groups.
        class_intervals: ends of the intervals of the differences per class, float64 [2, C].
        source: the evaluated checkpoints, images and split.
        num_runs: number of evaluated runs of the group.
    """

    problem: str = ""
    value: float = np.nan
    interval: tuple[float, float] = (np.nan, np.nan)
    classes: Sequence[str] = ()
    ious: Floats = field(default_factory=lambda: np.empty((2, 0)))
    class_intervals: Floats = field(default_factory=lambda: np.empty((2, 0)))
    source: str = ""
    num_runs: int = 0


def most_common_split(groups: Sequence[RunGroup]) -> str:
    """Return the split on which most finished runs were evaluated, at a tie their data.val_split."""
    finished = [run for group in groups for run in group.finished]
    counts = Counter(
        path.parent.name for run in finished for path in run.path.glob(f"{runs.EVALUATION}/*/{runs.CONFUSIONS}")
    )
    own = {run.config["data.val_split"] for run in finished}
    return max(sorted({*counts, *own}), key=lambda split: (counts[split], split in own), default="")


def score_differences(groups: Sequence[RunGroup], baseline: RunGroup, split: str) -> list[ScoreDifference]:
    """Return the difference of every group to the baseline, with a paired bootstrap over the images of a split.

    A resampled difference is the mean over the runs of the group minus the mean over the runs of the baseline, all on
    the same resampled images.
    """
    try:
        reference = _load_evaluations(baseline, split)
    except ComparisonError as error:
        return [ScoreDifference(f"row {baseline.number}: {error}") for _ in groups]
    differences = []
    for group in groups:
        try:
            evaluations = reference if group is baseline else _load_evaluations(group, split)
            for evaluation in evaluations:
                _check_comparable(evaluation, reference[0], f"row {baseline.number}")
        except ComparisonError as error:
            differences.append(ScoreDifference(str(error)))
        else:
            differences.append(_difference(evaluations, reference, split))
    return differences


def _load_evaluations(group: RunGroup, split: str) -> list[EvaluationRecord]:
    """Read the evaluations of the finished runs of a group.

    Raises:
        ComparisonError: if an evaluation is missing, damaged, or of another checkpoint than the run's present one.
    """
    if not group.finished:
        raise ComparisonError("not finished")
    evaluated = [run for run in group.finished if (_folder(run, split) / runs.CONFUSIONS).is_file()]
    if not evaluated:
        raise ComparisonError(NOT_EVALUATED)
    return [_read_evaluation(run, split) for run in evaluated]


def _folder(run: RunRecord, split: str) -> Path:
    return run.path / runs.EVALUATION / split


def _read_evaluation(run: RunRecord, split: str) -> EvaluationRecord:
    try:
        summary = json.loads((_folder(run, split) / runs.SCORES).read_text(encoding="utf-8"))
        with np.load(_folder(run, split) / runs.CONFUSIONS, allow_pickle=False) as arrays:
            names, confusions = arrays["names"].tolist(), arrays["confusions"]
        settings = {key: value for key, value in summary["settings"].items() if key not in _ROUNDING_ONLY}
        classes, sha256, name = list(summary["iou"]), summary["checkpoint_sha256"], Path(summary["checkpoint"]).stem
    except Exception as error:  # JSON, ZIP and NumPy raise various types
        raise ComparisonError(f"the evaluation cannot be read: {describe_damage(error)}") from error
    checkpoint = runs.checkpoint_of(run.path)  # None if it was deleted to save space
    if checkpoint and sha256 != sha256_of(checkpoint):
        raise ComparisonError(STALE)
    return EvaluationRecord(names, classes, settings, confusions.sum(axis=2), class_counts(confusions), name)


def _check_comparable(one: EvaluationRecord, other: EvaluationRecord, name: str) -> None:
    """Check that two evaluations are comparable; the error message calls the other one `name`."""
    changed = [key for key in one.settings if one.settings[key] != other.settings.get(key)]
    for what, same in {
        "on other classes": one.classes == other.classes,
        "on other images": one.names == other.names,
        "on images of the same names with other masks": np.array_equal(one.targets, other.targets),
        f"with another {', '.join(changed)}": not changed,
    }.items():
        if not same:
            raise ComparisonError(f"evaluated {what} than {name}")


def _difference(
    group: Sequence[EvaluationRecord], reference: Sequence[EvaluationRecord], split: str
) -> ScoreDifference:
    sides = (group, reference)
    ious = [[one.counts.total().iou() for one in side] for side in sides]
    means = [_mean_over_runs([mean_iou(classes) for classes in side]) for side in ious]
    resampled = [_mean_over_runs([mean_iou(one.resampled) for one in side]) for side in sides]
    low, high = percentile_interval(resampled[0] - resampled[1])
    by_class = [_mean_over_runs([one.resampled for one in side]) for side in sides]
    checkpoints = " and ".join(sorted({one.checkpoint for side in sides for one in side}))
    return ScoreDifference(
        value=float(means[0] - means[1]),
        interval=(float(low), float(high)),
        classes=group[0].classes,
        ious=np.stack([_mean_over_runs(side) for side in ious]),
        class_intervals=np.stack(percentile_interval(by_class[0] - by_class[1])),
        source=f"{checkpoints} checkpoints on {len(group[0].names)} images of {split}",
        num_runs=len(group),
    )


def _mean_over_runs(values: Sequence[Floats]) -> Floats:
    """Return the element-wise mean over runs, without NaN."""
    return mean_iou(np.stack(values, axis=-1))

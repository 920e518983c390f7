"""Differences of mean IoU between groups of runs on the same images, with confidence intervals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from fcn.comparison.bootstrap import percentile_interval, resample_class_iou
from fcn.comparison.evaluation_records import EvaluationRecord, describe_mismatch, read_evaluation
from fcn.comparison.grouping import RunGroup
from fcn.evaluation.scores import Floats, mean_iou

STALE = "evaluated before its best checkpoint changed"
NOT_EVALUATED = "not evaluated"


@dataclass(frozen=True)
class ScoreDifference:
    """Mean IoU of a group minus that of another on the same images, each averaged over the group's runs.

    Attributes:
        problem: the reason why there is no difference; the other attributes are then undefined.
        value: the difference; `low` and `high` are the ends of its 95 % interval, see `bootstrap.INTERVAL_MEANING`.
        classes: names of the classes.
        ious: float64 [2, C], IoU per class of both groups.
        lows, highs: ends of the intervals of the differences per class, float64 [C].
        num_images: number of images.
        num_runs: number of evaluated runs of both groups.
        checkpoints: evaluated checkpoints, `best`, `last` or both.
    """

    problem: str = ""
    value: float = np.nan
    low: float = np.nan
    high: float = np.nan
    classes: Sequence[str] = ()
    ious: Floats = field(default_factory=lambda: np.empty((2, 0)))
    lows: Floats = field(default_factory=lambda: np.empty(0))
    highs: Floats = field(default_factory=lambda: np.empty(0))
    num_images: int = 0
    num_runs: tuple[int, int] = (0, 0)
    checkpoints: frozenset[str] = frozenset()


def describe_checkpoints(differences: Iterable[ScoreDifference]) -> str:
    """Return `best checkpoints`, `last checkpoints`, or `best and last checkpoints`."""
    return f"{' and '.join(sorted(frozenset().union(*(one.checkpoints for one in differences))))} checkpoints"


def score_differences(groups: Sequence[RunGroup], baseline: RunGroup, split: str | None) -> list[ScoreDifference]:
    """Return the difference of every group to the baseline, with a paired bootstrap over the images of a split.

    A resampled difference is the mean over the runs of the group minus the mean over the runs of the baseline, all on
    the same resampled images.
    """
    loaded = [_load_evaluations(group, split) for group in [*groups, baseline]]
    reference = next(iter(loaded[-1].evaluations), None)
    problems = [_describe_problem(entry, reference, baseline, loaded[-1].problem) for entry in loaded]
    usable = [entry.evaluations if not problem else [] for entry, problem in zip(loaded, problems, strict=True)]
    counts = [evaluation.counts for evaluations in usable for evaluation in evaluations]
    resampled = iter(resample_class_iou(counts) if counts else [])
    sides = [[(one, next(resampled)) for one in evaluations] for evaluations in usable]
    return [
        ScoreDifference(problem or problems[-1]) if problem or problems[-1] else _difference(side, sides[-1])
        for side, problem in zip(sides[:-1], problems, strict=False)
    ]


@dataclass(frozen=True)
class _LoadedEvaluations:
    evaluations: Sequence[EvaluationRecord]
    problem: str = ""


def _load_evaluations(group: RunGroup, split: str | None) -> _LoadedEvaluations:
    if not group.finished:
        return _LoadedEvaluations([], "not finished")
    try:
        records = [read_evaluation(run.path, split) for run in group.finished] if split else []
    except Exception as error:  # JSON, ZIP and NumPy raise various types
        reason = " ".join(str(error).split()) or type(error).__name__
        return _LoadedEvaluations([], f"the evaluation cannot be read: {reason}")
    evaluations = [record for record in records if record]
    if any(evaluation.stale for evaluation in evaluations):
        return _LoadedEvaluations([], STALE)
    return _LoadedEvaluations(evaluations, "" if evaluations else NOT_EVALUATED)


def _describe_problem(
    loaded: _LoadedEvaluations, reference: EvaluationRecord | None, baseline: RunGroup, baseline_problem: str
) -> str:
    if loaded.problem or reference is None:
        return loaded.problem or f"row {baseline.number}: {baseline_problem}"
    mismatches = (describe_mismatch(one, reference) for one in loaded.evaluations)
    problem = next(filter(None, mismatches), "")
    return f"{problem} than row {baseline.number}" if problem else ""


Side = Sequence[tuple[EvaluationRecord, Floats]]
"""Evaluation and resampled IoU, [resamples, C], of every run of a group."""


def _difference(side: Side, other: Side) -> ScoreDifference:
    sides = (side, other)
    ious = [[evaluation.counts.total().iou() for evaluation, _ in part] for part in sides]
    per_class = np.stack([_mean_over_runs(part) for part in ious])
    values = [_mean_over_runs([mean_iou(one) for one in part]) for part in ious]
    resampled = [_mean_over_runs([mean_iou(ious) for _, ious in part]) for part in sides]
    low, high = percentile_interval(resampled[0] - resampled[1])
    by_class = [_mean_over_runs([ious for _, ious in part]) for part in sides]
    lows, highs = percentile_interval(by_class[0] - by_class[1])
    first = side[0][0]
    return ScoreDifference(
        "", float(values[0] - values[1]), float(low), float(high), first.classes, per_class, lows, highs,
        len(first.names), (len(side), len(other)), frozenset(one.checkpoint for one, _ in [*side, *other]),
    )  # fmt: skip


def _mean_over_runs(values: Sequence[Floats]) -> Floats:
    """Return the element-wise mean over runs, without NaN."""
    return mean_iou(np.stack(values, axis=-1))

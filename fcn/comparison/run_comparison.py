"""Compares runs: their groups, the differences to a baseline, and two rows side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fcn.comparison.evaluated_runs import read_evaluations
from fcn.comparison.evaluation_differences import ScoreDifference, score_differences
from fcn.comparison.evaluation_records import most_common_split
from fcn.comparison.grouping import RunGroup, differing_keys, format_setting, group_runs, identity_text, short_names
from fcn.comparison.run_records import BEST, EVALUATED_SPLIT, SPEED, ComparisonError, RunRecord, read_runs
from fcn.config import nearest
from fcn.evaluation.scores import Floats

METRIC = "val/mean_iou"
CLASS_IOU = "val/iou/"


@dataclass(frozen=True)
class RunComparison:
    """Groups of runs, best first, and their differences to a baseline.

    Attributes:
        folders: the compared folders.
        metric: metric by which the groups are sorted.
        keys: keys that separate the groups, dotted, with their short names.
        groups: rows of the table.
        unreadable: directories that could not be read as runs, with the reasons.
        baseline: row with which the others are compared.
        split: split of the compared evaluations.
        other_splits: number of evaluations by split that are left out; only where evaluations are the rows.
        differences: difference of every group to the baseline on `split`.
    """

    folders: Sequence[Path]
    metric: str
    keys: Mapping[str, str]
    groups: Sequence[RunGroup]
    unreadable: Mapping[Path, str]
    baseline: RunGroup
    split: str
    other_splits: Mapping[str, int]
    differences: Sequence[ScoreDifference]

    @property
    def of_evaluations(self) -> bool:
        """Whether the rows are evaluations in place of runs."""
        return any(run.is_evaluation for group in self.groups for run in group.runs)

    @property
    def compared(self) -> list[ScoreDifference]:
        """Differences to the baseline that could be computed."""
        pairs = zip(self.groups, self.differences, strict=True)
        return [difference for group, difference in pairs if group is not self.baseline and not difference.problem]


def compare_runs(
    folders: Sequence[Path],
    *,
    evaluations: bool = False,
    metric: str = METRIC,
    baseline: str | None = None,
    split: str | None = None,
    ignore: Iterable[str] = (),
) -> RunComparison:
    """Compare the runs, or evaluations of runs, at or below folders. Imports no torch and writes no files.

    Args:
        folders: run directories, or folders that hold run directories at any depth.
        evaluations: compare evaluations in place of runs: those of a run with other settings are other rows.
        metric: final metric by which the rows are sorted.
        baseline: row number or run directory of the baseline; None: the first row.
        split: split of the evaluations to compare; None: the one on which most runs were evaluated. Evaluations in
            place of runs on other splits are left out.
        ignore: keys that must not separate groups, in full or by their short names in the table.

    Raises:
        ComparisonError: if there is no run, or metric, baseline, split of evaluations or an ignored key is unknown.
    """
    runs, unreadable = read_evaluations(folders) if evaluations else read_runs(folders)
    split, other_splits = split or most_common_split(runs), Counter[str]()
    if evaluations:
        runs, other_splits = _select_split(runs, split)
    known = dict.fromkeys(name for run in runs for name in run.metrics)
    if known.keys() - {BEST, SPEED} and metric not in known:  # without any validation, only states are compared
        raise ComparisonError(f"metric (={metric}) must be one of the runs'{nearest(metric, list(known))}; "
                              f"known: {', '.join(known)}")  # fmt: skip
    names = short_names(runs)
    groups = group_runs(runs, metric=metric, ignore=[_full_key(name, names) for name in ignore])
    keys = {key: names[key] for key in groups[0].values}
    base = find_row(groups, baseline) if baseline else groups[0]
    differences = score_differences(groups, base, split)
    return RunComparison(folders, metric, keys, groups, unreadable, base, split, other_splits, differences)


def _select_split(evaluations: Sequence[RunRecord], split: str) -> tuple[list[RunRecord], Counter[str]]:
    """Return the evaluations on a split, and the number of the others by their split."""
    counts = Counter(one.config[EVALUATED_SPLIT] for one in evaluations)
    if not counts.pop(split, 0):
        raise ComparisonError(
            f"split (={split}) must be one of the evaluations'{nearest(split, counts)}; known: {', '.join(counts)}"
        )
    return [one for one in evaluations if one.config[EVALUATED_SPLIT] == split], counts


def find_row(groups: Sequence[RunGroup], name: str) -> RunGroup:
    """Return the group with a row number, or the group of a run directory.

    Raises:
        ComparisonError: if there is no such group.
    """
    for group in groups:
        if name == str(group.number) or any(run.path.resolve() == Path(name).resolve() for run in group.runs):
            return group
    raise ComparisonError(f"row (={name}) must be 1 to {len(groups)}, or one of the compared run directories")


def _full_key(name: str, names: Mapping[str, str]) -> str:
    by_name = {**{short: key for key, short in names.items()}, **{key: key for key in names}}
    if name not in by_name:
        remedy = nearest(name, by_name) or "; use a column heading, or a key of config.yaml"
        raise ComparisonError(f"ignore (={name}) must be a key of the runs{remedy}")
    return by_name[name]


@dataclass(frozen=True)
class RowContrast:
    """Differences between two rows A and B.

    Attributes:
        names: descriptions of both.
        settings: texts of the values in A and in B by key, where they differ.
        classes: names of the classes; empty if no class can be compared.
        ious: float64 [2, C], IoU per class of A and B, averaged over their runs; NaN for an undefined one.
        intervals: ends of the 95 % intervals of the differences per class, float64 [2, C]; None without evaluations.
        source: origin of the IoUs, or the reason why there are none.
    """

    names: tuple[str, str]
    settings: Mapping[str, tuple[str, str]]
    classes: Sequence[str]
    ious: Floats
    intervals: Floats | None
    source: str


def default_contrast(comparison: RunComparison) -> RowContrast | None:
    """Contrast the only two rows, or the first row with a chosen baseline; None otherwise."""
    first, *others = comparison.groups
    second = others[0] if len(others) == 1 else comparison.baseline
    return contrast_rows(comparison, first, second) if second is not first else None


def contrast_rows(comparison: RunComparison, first: RunGroup, second: RunGroup) -> RowContrast:
    """Contrast two rows of a comparison."""
    names = f"row {first.title}", f"row {second.title}"
    texts = {
        key: (_format_settings(first, key), _format_settings(second, key))
        for key in differing_keys([run.config for run in [*first.runs, *second.runs]])
    }
    settings = {key: both for key, both in texts.items() if both[0] != both[1]}
    (difference,) = score_differences([first], second, comparison.split)
    if not difference.problem:
        intervals, source = difference.class_intervals, difference.source
        return RowContrast(names, settings, difference.classes, difference.ious, intervals, source)
    classes, ious, source = _final_ious(first, second)
    return RowContrast(names, settings, classes, ious, None, f"{source} ({difference.problem})")


def _format_settings(group: RunGroup, key: str) -> str:
    return ", ".join(dict.fromkeys(format_setting(run.config.get(key, ...)) for run in group.runs))


def _final_ious(first: RunGroup, second: RunGroup) -> tuple[Sequence[str], Floats, str]:
    """Return classes, IoUs [2, C] and their source from the last validations, if these used the same images."""
    if any(run.is_evaluation for run in (*first.runs, *second.runs)):
        return [], np.empty((2, 0)), "no common evaluation"
    names = list(dict.fromkeys(name for run in first.finished for name in run.metrics if name.startswith(CLASS_IOU)))
    ious = np.array([[group.statistic(name).mean for name in names] for group in (first, second)])
    images = [{identity_text(list(validation_keys(run).items())) for run in row.finished} for row in (first, second)]
    if images[0] != images[1] or not np.isfinite(ious).all(axis=0).any():
        return [], np.empty((2, 0)), "no common validation"
    return [name.removeprefix(CLASS_IOU) for name in names], ious, "last validation, without intervals"


def validation_keys(run: RunRecord) -> dict[str, Any]:
    """Return the keys that determine the images and classes on which a run was validated."""
    split = ("train_split", "fold", "folds", "split_seed") if run.fold else ("val_split", "fold")
    keys = ("name", "root", *split, "classes", "shapes.seed", "shapes.num_train", "shapes.num_val")
    return {f"data.{key}": run.config.get(f"data.{key}", ...) for key in keys}

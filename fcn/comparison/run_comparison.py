"""Compares runs: their groups, the baseline, and the differences to it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fcn.comparison.differences import ScoreDifference, score_differences
from fcn.comparison.evaluation_records import most_common_split
from fcn.comparison.grouping import RunGroup, group_runs
from fcn.comparison.key_labels import short_names
from fcn.comparison.run_records import BEST, SPEED, ComparisonError, UnreadableRun, read_runs
from fcn.config import nearest

METRIC = "val/mean_iou"


@dataclass(frozen=True)
class RunComparison:
    """Groups of runs, best first, and their differences to a baseline.

    Attributes:
        folders: the compared folders.
        metric: metric by which the groups are sorted.
        keys: keys that separate the groups, dotted, with their short names.
        groups: rows of the table.
        unreadable: directories that could not be read as runs.
        baseline: row with which the others are compared.
        split: split of the compared evaluations; None if no run was evaluated.
        differences: difference of every group to the baseline on `split`.
    """

    folders: Sequence[Path]
    metric: str
    keys: Mapping[str, str]
    groups: Sequence[RunGroup]
    unreadable: Sequence[UnreadableRun]
    baseline: RunGroup
    split: str | None
    differences: Sequence[ScoreDifference]


def compare_runs(
    folders: Sequence[Path],
    *,
    metric: str = METRIC,
    baseline: str | None = None,
    split: str | None = None,
    ignore: Iterable[str] = (),
) -> RunComparison:
    """Compare the runs at or below folders. Imports no torch and writes no files.

    Args:
        folders: run directories, or folders that hold run directories at any depth.
        metric: final metric by which the rows are sorted.
        baseline: row number or run directory of the baseline; None: the first row.
        split: split of the evaluations to compare; None: the one on which most runs were evaluated.
        ignore: keys that must not separate groups, in full or by their short names in the table.

    Raises:
        ComparisonError: if there is no run, or metric, baseline or an ignored key is unknown.
    """
    runs, unreadable = read_runs(folders)
    known = dict.fromkeys(name for run in runs for name in run.metrics)
    if known.keys() - {BEST, SPEED} and metric not in known:  # without any validation, only states are compared
        raise ComparisonError(f"metric (={metric}) must be one of the runs'{nearest(metric, list(known))}; "
                              f"known: {', '.join(known)}")  # fmt: skip
    names = short_names(runs)
    groups = group_runs(runs, metric=metric, ignore=[_full_key(name, names) for name in ignore])
    keys = {key: names[key] for key in groups[0].values}
    base = find_row(groups, baseline) if baseline else groups[0]
    split = split or most_common_split(groups)
    return RunComparison(folders, metric, keys, groups, unreadable, base, split, score_differences(groups, base, split))


def find_row(groups: Sequence[RunGroup], name: str) -> RunGroup:
    """Return the group with a row number, or the group of a run directory.

    Raises:
        ComparisonError: if there is none.
    """
    if name.isdecimal() and 1 <= int(name) <= len(groups):
        return groups[int(name) - 1]
    path = Path(name).resolve()
    for group in groups:
        if any(run.path.resolve() == path for run in group.runs):
            return group
    raise ComparisonError(f"row (={name}) must be 1 to {len(groups)}, or one of the compared run directories")


def _full_key(name: str, names: Mapping[str, str]) -> str:
    by_name = {**{short: key for key, short in names.items()}, **{key: key for key in names}}
    if name not in by_name:
        remedy = nearest(name, by_name) or "; use a column heading, or a key of config.yaml"
        raise ComparisonError(f"ignore (={name}) must be a key of the runs{remedy}")
    return by_name[name]

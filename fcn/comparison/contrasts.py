"""The comparison of runs as data: what is in the table, and what tells two of its rows apart."""

from __future__ import annotations

import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fcn.comparison.run_collection import BEST, SPEED, Broken, ComparisonError, Run, collect
from fcn.comparison.score_differences import STALE, Difference, common_split, differences, kinds_of_checkpoints
from fcn.comparison.seed_groups import Group, all_names, different_keys, fold
from fcn.config import nearest
from fcn.evaluation.scores import Floats

METRIC = "val/mean_iou"
CLASS_IOU = "val/iou/"


@dataclass(frozen=True)
class Comparison:
    """Groups of runs, best first.

    Attributes:
        metric: by which they are sorted.
        keys: that tell them apart, dotted, with their short names.
        groups: rows of the table.
        broken: directories that could not be read.
        baseline: the row to which the others are compared.
        split: of the evaluations; None without any.
        differences: of every group to the baseline on `split`.
        notes: what a reader must know, a line each.
    """

    metric: str
    keys: dict[str, str]
    groups: Sequence[Group]
    broken: Sequence[Broken]
    baseline: Group
    split: str | None
    differences: Sequence[Difference]
    notes: Sequence[str]

    def row(self, name: str) -> Group:
        """The group of a row number, or that of a run directory.

        Raises:
            ComparisonError: if there is none.
        """
        if name.isdecimal() and 1 <= int(name) <= len(self.groups):
            return self.groups[int(name) - 1]
        place = Path(name).resolve()
        for group in self.groups:
            if any(run.path.resolve() == place for run in group.runs):
                return group
        raise ComparisonError(f"row (={name}) must be 1 to {len(self.groups)}, or one of the run directories compared")


@dataclass(frozen=True)
class Contrast:
    """What tells two groups apart.

    Attributes:
        first: group A.
        second: group B.
        names: of both, by the keys in which they differ.
        settings: key, value or values of A, and of B, where they differ.
        difference: of A minus B on the same images.
        classes: names; empty where no class can be compared.
        ious: float64 [2, C], IoU per class of A and B, means over their runs; NaN where there is none.
        source: where the IoUs are from, or why there are none.
    """

    first: Group
    second: Group
    names: tuple[str, str]
    settings: Sequence[tuple[str, Sequence[Any], Sequence[Any]]]
    difference: Difference
    classes: Sequence[str]
    ious: Floats
    source: str


def compare(
    folders: Sequence[Path | str],
    *,
    metric: str = METRIC,
    baseline: str | None = None,
    split: str | None = None,
    ignore: Iterable[str] = (),
) -> Comparison:
    """Compare the runs at or below folders. Imports no torch, and writes nothing.

    Args:
        folders: run directories, or folders that hold some at any depth.
        metric: a final metric by which rows are sorted.
        baseline: row number or run directory to which the others are compared; None: the first row.
        split: of the evaluations that are compared; None: the one on which most runs were evaluated.
        ignore: keys that shall not tell groups apart, in full or by the short names of the table.

    Raises:
        ComparisonError: if there is no run, none has the metric, no row is the baseline, or what shall be ignored is
            no key.
    """
    runs, broken = collect([Path(folder) for folder in folders])
    known = dict.fromkeys(name for run in runs for name in run.metrics)
    if known.keys() - {BEST, SPEED} and metric not in known:  # where nothing was validated, states are compared
        raise ComparisonError(f"metric (={metric}) must be one of the runs'{nearest(metric, list(known))}; "
                              f"known: {', '.join(known)}")  # fmt: skip
    names = all_names(runs)
    groups = fold(runs, metric=metric, ignore=_full_keys(list(ignore), names))
    keys = {key: names[key] for key in groups[0].values}
    found = Comparison(metric, keys, groups, broken, groups[0], None, [], [])
    base = found.row(baseline) if baseline else groups[0]
    split = split or common_split(groups)
    compared = differences(groups, base, split)
    notes = [*_repeated(groups), *_without_interval(groups, base, compared, split, list(map(Path, folders)))]
    return Comparison(metric, keys, groups, broken, base, split, compared, notes)


def _full_keys(given: Sequence[str], names: Mapping[str, str]) -> list[str]:
    """Keys that were given in full or by their short names."""
    by_name = {**{name: key for key, name in names.items()}, **{key: key for key in names}}
    for name in given:
        if name not in by_name:
            meant = nearest(name, by_name) or "; use a name that stands above a column, or one of config.yaml"
            raise ComparisonError(f"ignore (={name}) must be a key of the runs{meant}")
    return [by_name[name] for name in given]


def contrast(comparison: Comparison, first: Group, second: Group) -> Contrast:
    """What tells two rows of a comparison apart: settings, and the IoU of every class."""
    (difference,) = differences([first], second, comparison.split)
    keys = different_keys([run.config for group in (first, second) for run in group.runs])
    settings = [(key, _values(first, key), _values(second, key)) for key in keys]
    changed = [(key, a, b) for key, a, b in settings if a != b]
    differing = [key for key in comparison.keys if first.values[key] != second.values[key]]
    names = _name(comparison, first, differing), _name(comparison, second, differing)
    if not difference.problem:
        source = f"{kinds_of_checkpoints([difference])} on {difference.num_images} images of {comparison.split}"
        return Contrast(first, second, names, changed, difference, difference.classes, difference.ious, source)
    return Contrast(first, second, names, changed, difference, *_final_ious(first, second, difference.problem))


def _name(comparison: Comparison, group: Group, keys: Sequence[str]) -> str:
    settings = " ".join(f"{comparison.keys[key]}={group.texts[key]}" for key in keys)
    return f"row {group.number}: {settings or group.label}"


def _values(group: Group, key: str) -> list[Any]:
    """Values of a key in the runs of a group, each once."""
    values: list[Any] = []
    for run in group.runs:
        value = run.config.get(key, ...)
        values += [] if value in values else [value]
    return values


def _final_ious(first: Group, second: Group, problem: str) -> tuple[Sequence[str], Floats, str]:
    """Classes, IoUs [2, C] and their source, from the last validations, where these were on the same set."""
    names = list(dict.fromkeys(name for run in first.finished for name in run.metrics if name.startswith(CLASS_IOU)))
    configs = [validation_set(run) for group in (first, second) for run in group.runs]
    if different_keys(configs):
        return [], np.empty((2, 0)), f"{problem}, and validated on other data"
    ious = np.array([[group.statistic(name).mean for name in names] for group in (first, second)])
    if not np.isfinite(ious).all(axis=0).any():
        return [], np.empty((2, 0)), f"{problem}, and no class was validated in both"
    classes = [name.removeprefix(CLASS_IOU) for name in names]
    return classes, ious, f"last validation; {problem}, so there are no intervals"


def validation_set(run: Run) -> dict[str, Any]:
    """The keys that say on which images and classes a run was validated."""
    keys = ("name", "root", "val_split", "classes", "shapes.seed", "shapes.num_train", "shapes.num_val")
    return {f"data.{key}": run.config.get(f"data.{key}", ...) for key in keys}


def _repeated(groups: Sequence[Group]) -> list[str]:
    """Two runs of one seed are no two samples of what a seed changes."""
    notes = []
    for group in groups:
        times = Counter(run.config["seed"] for run in group.finished)
        seeds = [str(seed) for seed, number in times.items() if number > 1]
        if seeds:
            several = f"several runs of seed {', '.join(seeds)}"
            notes.append(f"row {group.number} holds {several}: its standard deviation is not that over seeds")
    return notes


def _without_interval(
    groups: Sequence[Group], baseline: Group, compared: Sequence[Difference], split: str | None, folders: Sequence[Path]
) -> list[str]:
    """Why rows have no interval, those of one reason in one line; and which rest on a part of their runs."""
    rows: dict[str, list[Group]] = defaultdict(list)
    notes = []
    for group, difference in zip(groups, compared, strict=True):
        if group is not baseline and difference.problem:
            rows[difference.problem].append(group)
        elif not difference.problem and difference.num_runs[0] < len(group.finished):
            parts = f"{difference.num_runs[0]} of its {len(group.finished)} finished runs"
            notes.append(f"row {group.number}: {parts} are evaluated on {split}")
    for problem, without in rows.items():
        several = "rows" if len(without) > 1 else "row"
        missing = [baseline] if compared[baseline.number - 1].problem else []
        lacking = missing if problem.startswith(f"row {baseline.number} was ") else [*without, *missing]
        remedy = _remedy(problem, _command([run for group in lacking for run in group.finished], split, folders))
        notes.append(f"no interval for {several} {', '.join(str(one.number) for one in without)}: {problem}{remedy}")
    return notes


def _remedy(problem: str, command: str) -> str:
    if STALE in problem:
        return f"; evaluate it again: {command}"
    return f"; evaluate them: {command}" if "not evaluated" in problem else ""


def _command(runs: Sequence[Run], split: str | None, folders: Sequence[Path]) -> str:
    """What evaluates runs, by those of the folders in which they are, as these were given."""
    other = any(run.config.get("data.val_split") != split for run in runs)
    ending = f" {shlex.quote(f'split={split}')}" if split and other else ""
    given = [folder for folder in folders if any(run.path.is_relative_to(folder) for run in runs)]
    command = "python scripts/evaluate.py"
    commands = [f"{command} {shlex.quote(f'run={folder}')}{ending}" for folder in given]
    return "; ".join(commands)


def headline(metric: str) -> dict[str, str]:
    """Names in `Run.metrics` of the table's columns, with their headings; the metric of the sorting comes first."""
    usual = {
        METRIC: "val mIoU",
        BEST: "best mIoU",
        "val/pixel_accuracy": "val acc",
        "train/loss": "train loss",
        SPEED: "images/s",
    }
    return {metric: usual.get(metric, metric), **usual}

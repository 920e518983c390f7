"""Contrasts two rows of a comparison: their settings and their IoU per class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fcn.comparison.differences import ScoreDifference, describe_checkpoints, score_differences
from fcn.comparison.grouping import RunGroup
from fcn.comparison.key_labels import differing_keys
from fcn.comparison.run_comparison import RunComparison
from fcn.comparison.run_records import RunRecord
from fcn.evaluation.scores import Floats

CLASS_IOU = "val/iou/"


@dataclass(frozen=True)
class RowContrast:
    """Differences between two rows.

    Attributes:
        first: row A.
        second: row B.
        names: descriptions of both, by the keys in which they differ.
        settings: key, values of A and values of B, where they differ.
        difference: mean IoU of A minus that of B on the same images.
        classes: names of the classes; empty if no class can be compared.
        ious: float64 [2, C], IoU per class of A and B, averaged over their runs; NaN for an undefined one.
        source: origin of the IoUs, or the reason why there are none.
    """

    first: RunGroup
    second: RunGroup
    names: tuple[str, str]
    settings: Sequence[tuple[str, Sequence[Any], Sequence[Any]]]
    difference: ScoreDifference
    classes: Sequence[str]
    ious: Floats
    source: str


def default_contrast(comparison: RunComparison) -> RowContrast | None:
    """Contrast the only two rows, or the first row with a chosen baseline; None otherwise."""
    if len(comparison.groups) == 2:
        return contrast_rows(comparison, *comparison.groups)
    first = comparison.groups[0]
    return contrast_rows(comparison, first, comparison.baseline) if comparison.baseline is not first else None


def contrast_rows(comparison: RunComparison, first: RunGroup, second: RunGroup) -> RowContrast:
    """Contrast two rows of a comparison."""
    (difference,) = score_differences([first], second, comparison.split)
    keys = differing_keys([run.config for group in (first, second) for run in group.runs])
    settings = [(key, _distinct_values(first, key), _distinct_values(second, key)) for key in keys]
    changed = [(key, a, b) for key, a, b in settings if a != b]
    separating = [key for key in comparison.keys if first.values[key] != second.values[key]]
    names = _describe(comparison, first, separating), _describe(comparison, second, separating)
    if difference.problem:
        classes, ious, source = _final_ious(first, second, difference.problem)
    else:
        classes, ious = difference.classes, difference.ious
        source = f"{describe_checkpoints([difference])} on {difference.num_images} images of {comparison.split}"
    return RowContrast(first, second, names, changed, difference, classes, ious, source)


def _describe(comparison: RunComparison, group: RunGroup, keys: Sequence[str]) -> str:
    settings = " ".join(f"{comparison.keys[key]}={group.texts[key]}" for key in keys)
    return f"row {group.number}: {settings or group.label}"


def _distinct_values(group: RunGroup, key: str) -> list[Any]:
    values: list[Any] = []
    for run in group.runs:
        value = run.config.get(key, ...)
        values += [] if value in values else [value]
    return values


def _final_ious(first: RunGroup, second: RunGroup, problem: str) -> tuple[Sequence[str], Floats, str]:
    """Return classes, IoUs [2, C] and their source from the last validations, if these used the same images."""
    names = list(dict.fromkeys(name for run in first.finished for name in run.metrics if name.startswith(CLASS_IOU)))
    if differing_keys([validation_keys(run) for group in (first, second) for run in group.runs]):
        return [], np.empty((2, 0)), f"{problem}, and validated on other data"
    ious = np.array([[group.statistic(name).mean for name in names] for group in (first, second)])
    if not np.isfinite(ious).all(axis=0).any():
        return [], np.empty((2, 0)), f"{problem}, and no class was validated in both"
    classes = [name.removeprefix(CLASS_IOU) for name in names]
    return classes, ious, f"last validation, without intervals: {problem}"


def validation_keys(run: RunRecord) -> dict[str, Any]:
    """Return the keys that determine the images and classes on which a run was validated."""
    keys = ("name", "root", "val_split", "classes", "shapes.seed", "shapes.num_train", "shapes.num_val")
    return {f"data.{key}": run.config.get(f"data.{key}", ...) for key in keys}

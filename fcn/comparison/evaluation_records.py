"""Reads the evaluations that scripts/evaluate.py wrote into runs, and checks whether they are comparable."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcn import runs
from fcn.comparison.grouping import RunGroup
from fcn.evaluation.scores import ClassCounts, class_counts
from fcn.runs.atomic_files import sha256_of

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
        stale: whether the checkpoint of the run has changed since.
    """

    names: Sequence[str]
    classes: Sequence[str]
    settings: Mapping[str, Any]
    targets: NDArray[np.int64]
    counts: ClassCounts
    checkpoint: str
    stale: bool


def most_common_split(groups: Sequence[RunGroup]) -> str | None:
    """Return the split on which most finished runs were evaluated, at a tie their data.val_split; None without any."""
    finished = [run for group in groups for run in group.finished]
    counts = Counter(
        path.parent.name for run in finished for path in run.path.glob(f"{runs.EVALUATION}/*/{runs.CONFUSIONS}")
    )
    own = {run.config.get("data.val_split") for run in finished}
    return max(sorted(counts), key=lambda split: (counts[split], split in own), default=None)


def read_evaluation(run_dir: Path, split: str) -> EvaluationRecord | None:
    """Read the evaluation of a run on a split; None if there is none.

    Raises:
        Exception: of various types, if its files are damaged.
    """
    folder = run_dir / runs.EVALUATION / split
    if not (folder / runs.CONFUSIONS).is_file():
        return None
    summary = json.loads((folder / runs.SCORES).read_text(encoding="utf-8"))
    with np.load(folder / runs.CONFUSIONS, allow_pickle=False) as arrays:
        names, confusions = arrays["names"].tolist(), arrays["confusions"]
    settings = {key: value for key, value in summary["settings"].items() if key not in _ROUNDING_ONLY}
    checkpoint = runs.checkpoint_of(run_dir)  # None if it was deleted to save space
    stale = checkpoint is not None and summary["checkpoint_sha256"] != sha256_of(checkpoint)
    return EvaluationRecord(
        names, list(summary["iou"]), settings, confusions.sum(axis=2), class_counts(confusions),
        Path(summary["checkpoint"]).stem, stale,
    )  # fmt: skip


def describe_mismatch(one: EvaluationRecord, other: EvaluationRecord) -> str:
    """Return the reason why two evaluations are not comparable; empty if they are."""
    if one.classes != other.classes:
        return "evaluated on other classes"
    if one.names != other.names:
        return "evaluated on other images"
    if not np.array_equal(one.targets, other.targets):
        return "evaluated on images of the same names with other masks"
    keys = [key for key in one.settings if one.settings[key] != other.settings.get(key)]
    return f"evaluated with another {', '.join(keys)}" if keys else ""

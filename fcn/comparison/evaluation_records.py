"""Evaluations of runs by scripts/evaluate.py, and the joining of those of different folds."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcn import runs
from fcn.comparison.bootstrap import resample_class_iou
from fcn.comparison.grouping import RunGroup
from fcn.comparison.run_records import (
    EVALUATED_SPLIT,
    ROUNDING_ONLY,
    ComparisonError,
    Fold,
    RunRecord,
    describe_damage,
)
from fcn.config import FOLD
from fcn.evaluation.scores import ClassCounts, Floats, class_counts
from fcn.runs.atomic_files import sha256_of

STALE = "evaluated before its best checkpoint changed"
NOT_EVALUATED = "not evaluated"


@dataclass(frozen=True)
class EvaluationRecord:
    """Evaluation of a run on a split with N images and C classes, or of all folds of a seed on their images.

    Attributes:
        names: names of the images.
        classes: names of the classes.
        settings: inference settings; none where they distinguish the rows.
        targets: target pixels per image and class, int64 [N, C].
        counts: hits and unions per image and class.
        checkpoint: `best` or `last`, the evaluated checkpoint.
        seed: seed of the run.
        fold: the fold whose images were evaluated; None for any other split.
    """

    names: Sequence[str]
    classes: Sequence[str]
    settings: Mapping[str, Any]
    targets: NDArray[np.int64]
    counts: ClassCounts
    checkpoint: str
    seed: int | str
    fold: Fold | None

    @cached_property
    def resampled(self) -> Floats:
        return resample_class_iou(self.counts)


def most_common_split(records: Sequence[RunRecord]) -> str:
    """Return the split on which most finished runs were evaluated, at a tie the one that validated them."""
    finished = [run for run in records if run.finished]
    counts = Counter(split for run in finished for split in _evaluated_splits(run))
    own = {run.validation_split for run in finished}
    return max(sorted({*counts, *own}), key=lambda split: (counts[split], split in own), default="")


def _evaluated_splits(run: RunRecord) -> list[str]:
    if run.is_evaluation:
        return [run.config[EVALUATED_SPLIT]]
    return [folder.name for folder in run.path.glob(f"{runs.EVALUATION}/*") if _is_evaluation_of_run(folder)]


def _is_evaluated(run: RunRecord, split: str) -> bool:
    folder = _folder(run, split)
    return (folder / runs.CONFUSIONS).is_file() if run.is_evaluation else _is_evaluation_of_run(folder)


def _is_evaluation_of_run(folder: Path) -> bool:
    """Return whether a folder in a run directory holds an evaluation of that run alone on the split of its name.

    `output=<run>/evaluation/flip` may have written any other. A damaged one is reported when it is read.
    """
    if not (folder / runs.CONFUSIONS).is_file():
        return False
    try:
        summary = json.loads((folder / runs.SCORES).read_text(encoding="utf-8"))
        return bool(summary["split"] == folder.name) and isinstance(summary["checkpoint"], str)
    except (OSError, ValueError, LookupError, TypeError):
        return True


def load_evaluations(group: RunGroup, split: str) -> list[EvaluationRecord]:
    """Read the evaluations of the finished runs of a group.

    Raises:
        ComparisonError: if an evaluation is missing, damaged, or of another checkpoint than the run's present one.
    """
    if not group.finished:
        raise ComparisonError("not finished")
    evaluated = [run for run in group.finished if _is_evaluated(run, split)]
    if not evaluated:
        raise ComparisonError(NOT_EVALUATED)
    return [_read_evaluation(run, split) for run in evaluated]


def _folder(run: RunRecord, split: str) -> Path:
    return run.path if run.is_evaluation else run.path / runs.EVALUATION / split


def _read_evaluation(run: RunRecord, split: str) -> EvaluationRecord:
    try:
        summary = json.loads((_folder(run, split) / runs.SCORES).read_text(encoding="utf-8"))
        with np.load(_folder(run, split) / runs.CONFUSIONS, allow_pickle=False) as arrays:
            names, confusions = arrays["names"].tolist(), arrays["confusions"]
        settings = {key: value for key, value in summary["settings"].items() if key not in ROUNDING_ONLY}
        classes, checkpoints = list(summary["iou"]), _evaluated_checkpoints(summary)
    except Exception as error:  # JSON, ZIP and NumPy raise various types
        raise ComparisonError(f"the evaluation cannot be read: {describe_damage(error)}") from error
    if not run.is_evaluation:
        present = runs.checkpoint_of(run.path)  # None if it was deleted to save space
        checkpoints = {present or path: sha256 for path, sha256 in checkpoints.items()}
    if any(path.is_file() and sha256_of(path) != sha256 for path, sha256 in checkpoints.items()):
        raise ComparisonError(STALE)
    return EvaluationRecord(
        names=names,
        classes=classes,
        settings={} if run.is_evaluation else settings,
        targets=confusions.sum(axis=2),
        counts=class_counts(confusions),
        checkpoint=" and ".join(sorted({path.stem for path in checkpoints})),
        seed=run.config["seed"],
        fold=run.fold if split == FOLD else None,
    )


def _evaluated_checkpoints(summary: Mapping[str, Any]) -> dict[Path, str]:
    """Return the SHA-256 of every evaluated checkpoint by its path."""
    paths, hashes = summary["checkpoint"], summary["checkpoint_sha256"]
    return {Path(paths): hashes} if isinstance(paths, str) else dict(zip(map(Path, paths), hashes, strict=True))


def check_comparable(one: EvaluationRecord, other: EvaluationRecord, name: str) -> None:
    """Check that two evaluations are of the same images; the error message calls the other one `name`.

    Raises:
        ComparisonError: if they are not, or the classes or settings differ.
    """
    _check_settings(one, other, name)
    for what, same in {
        "on other images": list(one.names) == list(other.names),
        "on images of the same names with other masks": np.array_equal(one.targets, other.targets),
    }.items():
        if not same:
            raise ComparisonError(f"evaluated {what} than {name}")


def _check_settings(one: EvaluationRecord, other: EvaluationRecord, name: str) -> None:
    if one.classes != other.classes:
        raise ComparisonError(f"evaluated on other classes than {name}")
    if changed := [key for key in one.settings if one.settings[key] != other.settings.get(key)]:
        raise ComparisonError(f"evaluated with another {', '.join(changed)} than {name}")


def join_folds(*rows: Sequence[EvaluationRecord]) -> list[list[EvaluationRecord]]:
    """Join the evaluations of the folds of each seed into one of all their images, which are different for each fold.

    If the rows or seeds have different folds, only the folds are joined that all of them have. Evaluations on a split
    that is the same for all runs stay as they are.

    Args:
        rows: evaluations of the runs of each row.

    Returns:
        The evaluations of each row, one per seed.

    Raises:
        ComparisonError: if the folds of a seed were evaluated with different classes or settings.
    """
    by_seed = [_folds_by_seed(row) for row in rows]
    common = set.intersection(*(set(folds) for seeds in by_seed for folds in seeds))
    if not common:  # the images of all folds may still be the same, as of two divisions
        common = {fold for seeds in by_seed for folds in seeds for fold in folds}
    return [[_join([folds[fold] for fold in folds if fold in common]) for folds in seeds] for seeds in by_seed]


def _folds_by_seed(row: Sequence[EvaluationRecord]) -> list[dict[Fold | None, EvaluationRecord]]:
    """Return the evaluations of each seed by fold; further ones of a seed and fold are like another seed."""
    seeds: dict[tuple[int | str, int], dict[Fold | None, EvaluationRecord]] = {}
    for one in row:
        repetition = 0
        while one.fold in seeds.setdefault((one.seed, repetition), {}):
            repetition += 1
        seeds[one.seed, repetition][one.fold] = one
    return list(seeds.values())


def _join(folds: Sequence[EvaluationRecord]) -> EvaluationRecord:
    first = folds[0]
    if first.fold is None:
        return first
    for other in folds[1:]:
        _check_settings(other, first, "another fold of its seed")
    names = np.array([name for one in folds for name in one.names])
    order = np.argsort(names, kind="stable")  # the same for every division of the images
    hits, unions = (np.concatenate([one.counts[part] for one in folds])[order] for part in (0, 1))
    return EvaluationRecord(
        names=names[order].tolist(),
        classes=first.classes,
        settings=first.settings,
        targets=np.concatenate([one.targets for one in folds])[order],
        counts=ClassCounts(hits, unions),
        checkpoint=" and ".join(sorted({one.checkpoint for one in folds})),
        seed=first.seed,
        fold=first.fold,
    )

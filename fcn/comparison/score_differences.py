"""What scripts/evaluate.py left in runs, and differences of groups of runs on the same images."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fcn import runs
from fcn.comparison.bootstrap import RESAMPLES, interval, resampled_class_iou
from fcn.comparison.seed_groups import Group
from fcn.evaluation.scores import ClassCounts, Floats, class_counts, mean_iou
from fcn.runs.atomic_files import sha256_of

STALE = "evaluated before its best checkpoint changed"

_ROUNDING = ("accelerator", "device", "batch_size")  # settings that change no more than the rounding


@dataclass(frozen=True)
class Evaluation:
    """Of one run on one split; N images, C classes.

    Attributes:
        names: of the images.
        classes: names.
        settings: how the network was applied.
        targets: pixels per image and class of the target, int64 [N, C].
        counts: of hits and unions.
        checkpoint: `best` or `last`, which of the run's it was.
        stale: whether the run has another one by now.
    """

    names: Sequence[str]
    classes: Sequence[str]
    settings: Mapping[str, Any]
    targets: NDArray[np.int64]
    counts: ClassCounts
    checkpoint: str
    stale: bool


@dataclass(frozen=True)
class Difference:
    """Mean IoU of a group minus that of another on the same images, each a mean over the group's runs.

    Attributes:
        problem: why there is none, in a few words; then nothing else means anything.
        value: the difference; `low` to `high` is its 95 % interval, see `bootstrap.COVERS`.
        classes: names.
        ious: float64 [2, C], IoU per class of both.
        lows, highs: ends of the intervals of the classes' differences, float64 [C].
        num_images: on which both were evaluated.
        num_runs: of both groups, those that were evaluated.
        checkpoints: which of the runs' were evaluated, `best` or `last`, or both.
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


def kinds_of_checkpoints(differences: Iterable[Difference]) -> str:
    """`best checkpoints`, `last checkpoints`, or `best and last checkpoints`."""
    return f"{' and '.join(sorted(frozenset().union(*(one.checkpoints for one in differences))))} checkpoints"


def common_split(groups: Sequence[Group]) -> str | None:
    """The split on which most finished runs were evaluated, their own data.val_split before others; None without."""
    finished = [run for group in groups for run in group.finished]
    counted = Counter(
        path.parent.name for run in finished for path in run.path.glob(f"{runs.EVALUATION}/*/{runs.CONFUSIONS}")
    )
    own = {run.config.get("data.val_split") for run in finished}
    return max(sorted(counted), key=lambda split: (counted[split], split in own), default=None)


def read(run_dir: Path, split: str) -> Evaluation | None:
    """The evaluation of a run on a split; None if there is none.

    Raises:
        Exception: of many kinds, if its files are damaged.
    """
    folder = run_dir / runs.EVALUATION / split
    if not (folder / runs.CONFUSIONS).is_file():
        return None
    summary = json.loads((folder / runs.SCORES).read_text(encoding="utf-8"))
    with np.load(folder / runs.CONFUSIONS, allow_pickle=False) as arrays:
        names, confusions = arrays["names"].tolist(), arrays["confusions"]
    settings = {key: value for key, value in summary["settings"].items() if key not in _ROUNDING}
    counts, targets = class_counts(confusions), confusions.sum(axis=2)
    checkpoint, stale = Path(summary["checkpoint"]).stem, _is_stale(run_dir, folder / runs.SCORES, summary)
    return Evaluation(names, list(summary["iou"]), settings, targets, counts, checkpoint, stale)


def _is_stale(run_dir: Path, path: Path, summary: Mapping[str, Any]) -> bool:
    """Whether the run's checkpoint is not the one that was evaluated; unknown, so no, where it was removed since."""
    checkpoint = runs.checkpoint_of(run_dir)
    if checkpoint is None:
        return False
    if known := summary.get("checkpoint_sha256"):
        return bool(known != sha256_of(checkpoint))
    # Evaluations of older versions, which have no hash.
    return checkpoint.name != Path(summary["checkpoint"]).name or checkpoint.stat().st_mtime > path.stat().st_mtime


def mismatch(one: Evaluation, other: Evaluation) -> str:
    """Why two evaluations are not of the same task, in a few words; empty if they are."""
    if one.classes != other.classes:
        return "evaluated on other classes"
    if one.names != other.names:
        return "evaluated on other images"
    if not np.array_equal(one.targets, other.targets):
        return "evaluated on images of the same names with other masks"
    differing = [key for key in one.settings if one.settings[key] != other.settings.get(key)]
    return f"evaluated with another {', '.join(differing)}" if differing else ""


def differences(
    groups: Sequence[Group], baseline: Group, split: str | None, *, resamples: int = RESAMPLES
) -> list[Difference]:
    """Of every group to the baseline, with a paired bootstrap over the images of a split.

    A resampled difference is the mean over the runs of the one group minus that over the runs of the other, all on
    the same resampled images.
    """
    loaded = [_load(group, split) for group in [*groups, baseline]]
    reference = next(iter(loaded[-1].evaluations), None)
    problems = [_problem(entry, reference, baseline, loaded[-1].problem) for entry in loaded]
    usable = [entry.evaluations if not problem else [] for entry, problem in zip(loaded, problems, strict=True)]
    counts = [evaluation.counts for evaluations in usable for evaluation in evaluations]
    resampled = iter(resampled_class_iou(counts, resamples=resamples) if counts else [])
    sides = [[(one, next(resampled)) for one in evaluations] for evaluations in usable]
    return [
        Difference(problem or problems[-1]) if problem or problems[-1] else _difference(side, sides[-1])
        for side, problem in zip(sides[:-1], problems, strict=False)
    ]


@dataclass(frozen=True)
class _Loaded:
    evaluations: Sequence[Evaluation]
    problem: str = ""


def _load(group: Group, split: str | None) -> _Loaded:
    if not group.finished:
        return _Loaded([], "not finished")
    try:
        found = [read(run.path, split) for run in group.finished] if split else []
    except Exception as error:  # of many kinds: those of JSON, of ZIP and of NumPy's format
        reason = " ".join(str(error).split()) or type(error).__name__
        return _Loaded([], f"evaluated, but that cannot be read: {reason}")
    known = [evaluation for evaluation in found if evaluation]
    if any(evaluation.stale for evaluation in known):
        return _Loaded([], STALE)
    return _Loaded(known, "" if known else "not evaluated")


def _problem(loaded: _Loaded, reference: Evaluation | None, baseline: Group, missing: str) -> str:
    if loaded.problem or reference is None:
        return loaded.problem or f"row {baseline.number} was {missing}"
    problem = next(filter(None, (mismatch(one, reference) for one in loaded.evaluations)), "")
    return f"{problem} than row {baseline.number}" if problem else ""


def _difference(side: Sequence[tuple[Evaluation, Floats]], other: Sequence[tuple[Evaluation, Floats]]) -> Difference:
    sides = (side, other)
    ious = [[evaluation.counts.total().iou() for evaluation, _ in part] for part in sides]
    per_class = np.stack([_over_runs(part) for part in ious])
    values = [_over_runs([mean_iou(one) for one in part]) for part in ious]
    resampled = [_over_runs([mean_iou(ious) for _, ious in part]) for part in sides]
    low, high = interval(resampled[0] - resampled[1])
    by_class = [_over_runs([ious for _, ious in part]) for part in sides]
    lows, highs = interval(by_class[0] - by_class[1])
    first = side[0][0]
    return Difference(
        "", float(values[0] - values[1]), float(low), float(high), first.classes, per_class, lows, highs,
        len(first.names), (len(side), len(other)), frozenset(one.checkpoint for one, _ in [*side, *other]),
    )  # fmt: skip


def _over_runs(values: Sequence[Floats]) -> Floats:
    """Mean over the runs, element by element, without NaN."""
    return mean_iou(np.stack(values, axis=-1))

"""Remarks below a comparison: the meaning of its numbers, and the reasons for missing ones."""

from __future__ import annotations

import shlex
from collections import defaultdict
from collections.abc import Sequence

from fcn.comparison.bootstrap import INTERVAL_MEANING
from fcn.comparison.evaluation_records import NOT_EVALUATED, STALE
from fcn.comparison.run_comparison import RunComparison
from fcn.comparison.run_records import Fold
from fcn.comparison.tables import format_score
from fcn.config import FOLD
from fcn.config.overrides import for_shell


def collect_remarks(comparison: RunComparison) -> list[str]:
    """Return the remarks, one per line."""
    lines = []
    if any(group.statistic(comparison.metric).count > 1 for group in comparison.groups):
        lines.append(f"mean ± sample standard deviation over {_varied(comparison)} (number of finished runs)")
    for group in comparison.groups:
        if len({(run.config["seed"], run.fold) for run in group.finished}) < len(group.finished):
            lines.append(f"row {group.number} holds several runs of one seed: the deviation is not over seeds alone")
    lines += [*_incomplete_folds(comparison), *_scores_of_joined_folds(comparison)]
    if compared := comparison.compared:
        sources = "; ".join(dict.fromkeys(difference.source for difference in compared))
        lines.append(
            f"mIoU \N{MINUS SIGN} row {comparison.baseline.number}: difference of mean IoU, {sources}, with a "
            f"bootstrap interval. {INTERVAL_MEANING}"
        )
    others = [
        f"left out: {count} evaluation{'s' * (count > 1)} on {split}, not {comparison.split}; use --split {split} for "
        "a comparison of those"
        for split, count in comparison.other_splits.items()
    ]
    unreadable = [f"{path} is left out: {problem}" for path, problem in comparison.unreadable.items()]
    return [*lines, *missing_intervals(comparison), *others, *unreadable]


def _varied(comparison: RunComparison) -> str:
    """Return what differs between the finished runs of a row."""
    rows = [group.finished for group in comparison.groups]
    folds = any(len({run.fold for run in row}) > 1 for row in rows)
    seeds = any(len({run.config["seed"] for run in row}) > 1 for row in rows)
    return "seeds and folds" if folds and seeds else "folds" if folds else "seeds"


def _incomplete_folds(comparison: RunComparison) -> list[str]:
    """Return the rows whose scores are those of folds, and that lack a finished run of some folds."""
    if comparison.of_evaluations and comparison.split != FOLD:
        return []
    verb = "evaluated" if comparison.of_evaluations else "finished"
    rows: dict[str, list[str]] = defaultdict(list)
    for group in comparison.groups:
        folds: dict[int, set[Fold]] = defaultdict(set)
        for run in group.finished:
            if run.fold:
                folds[run.config["seed"]].add(run.fold)
        partial = {seed: sorted(some) for seed, some in folds.items() if len(some) < next(iter(some))[1]}
        if present := " and ".join(f"{_listed(some)} (seed {seed})" for seed, some in partial.items()):
            rows[present].append(str(group.number))
    return [
        f"row{'s' * (len(numbers) > 1)} {', '.join(numbers)}: {verb} on {present} alone, so the scores are not those "
        "of all images"
        for present, numbers in rows.items()
    ]


def _listed(folds: Sequence[Fold]) -> str:
    numbers = ", ".join(str(number) for number, _, _ in folds)
    return f"fold{'s' * (len(folds) > 1)} {numbers} of {folds[0][1]}"


def _scores_of_joined_folds(comparison: RunComparison) -> list[str]:
    """Return the scores of the rows over the images of all their folds together."""
    if comparison.split != FOLD:
        return []
    lines = []
    for group, one in zip(comparison.groups, comparison.differences, strict=True):
        if not one.problem:
            low, high = map(format_score, one.score_interval)
            score = f"mean IoU {format_score(one.score)} [{low}, {high}] of the sum of the confusion matrices"
            lines.append(f"row {group.number}: {score} of its folds, {one.source}")
    return lines


def missing_intervals(comparison: RunComparison) -> list[str]:
    """Return the reasons for missing intervals with remedies, and the rows that were evaluated only in part."""
    rows: dict[str, list[str]] = defaultdict(list)
    lines = []
    for group, difference in zip(comparison.groups, comparison.differences, strict=True):
        if difference.problem and group is not comparison.baseline:
            rows[difference.problem].append(str(group.number))
        elif not difference.problem and difference.num_runs < len(group.finished):
            share = f"{difference.num_runs} of its {len(group.finished)} finished runs"
            lines.append(f"row {group.number}: {share} are evaluated on {comparison.split}")
    for problem, numbers in rows.items():
        not_current = problem.endswith((STALE, NOT_EVALUATED)) and not comparison.of_evaluations
        remedy = f"; evaluate the runs: {_remedy(comparison)}" if not_current else ""
        lines.append(f"no interval for row{'s' * (len(numbers) > 1)} {', '.join(numbers)}: {problem}{remedy}")
    return lines


def _remedy(comparison: RunComparison) -> str:
    """Return the commands that evaluate all runs."""
    own = {run.validation_split for group in comparison.groups for run in group.runs}
    split = "" if own == {comparison.split} else f" {shlex.quote(f'split={comparison.split}')}"
    return "; ".join(f"python scripts/evaluate.py {for_shell('run', folder)}{split}" for folder in comparison.folders)

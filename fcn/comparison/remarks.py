"""Remarks below a comparison: the meaning of its numbers, and the reasons for missing ones."""

from __future__ import annotations

import shlex
from collections import Counter, defaultdict
from collections.abc import Sequence

from fcn.comparison.bootstrap import INTERVAL_MEANING
from fcn.comparison.differences import NOT_EVALUATED, STALE, ScoreDifference, describe_checkpoints
from fcn.comparison.grouping import RunGroup
from fcn.comparison.key_labels import MINUS
from fcn.comparison.run_comparison import RunComparison
from fcn.comparison.run_records import RunRecord


def collect_remarks(comparison: RunComparison) -> list[str]:
    """Return the remarks, one per line."""
    lines = []
    if any(group.statistic(comparison.metric).count > 1 for group in comparison.groups):
        lines.append("mean ± sample standard deviation over seeds (number of finished runs)")
    if compared := existing_differences(comparison):
        images = f"{describe_checkpoints(compared)} on {compared[0].num_images} images of {comparison.split}"
        lines.append(
            f"mIoU {MINUS} row {comparison.baseline.number}: difference of mean IoU, {images}, with a bootstrap "
            f"interval. {INTERVAL_MEANING}"
        )
    unreadable = [f"{run.path} is left out: {run.problem}" for run in comparison.unreadable]
    return [*lines, *repeated_seeds(comparison), *missing_intervals(comparison), *unreadable]


def existing_differences(comparison: RunComparison) -> list[ScoreDifference]:
    """Return the differences to the baseline that could be computed."""
    pairs = zip(comparison.groups, comparison.differences, strict=True)
    return [difference for group, difference in pairs if group is not comparison.baseline and not difference.problem]


def repeated_seeds(comparison: RunComparison) -> list[str]:
    """Return a remark for every row with several runs of one seed, which are not independent samples."""
    lines = []
    for group in comparison.groups:
        counts = Counter(run.config["seed"] for run in group.finished)
        if seeds := [str(seed) for seed, count in counts.items() if count > 1]:
            lines.append(
                f"row {group.number} holds several runs of seed {', '.join(seeds)}: the deviation is not over seeds "
                "alone"
            )
    return lines


def missing_intervals(comparison: RunComparison) -> list[str]:
    """Return the reasons for missing intervals with remedies, and the rows that were evaluated only in part."""
    baseline, differences = comparison.baseline, comparison.differences
    rows: dict[str, list[RunGroup]] = defaultdict(list)
    lines = []
    for group, difference in zip(comparison.groups, differences, strict=True):
        if group is not baseline and difference.problem:
            rows[difference.problem].append(group)
        elif not difference.problem and difference.num_runs[0] < len(group.finished):
            share = f"{difference.num_runs[0]} of its {len(group.finished)} finished runs"
            lines.append(f"row {group.number}: {share} are evaluated on {comparison.split}")
    for problem, groups in rows.items():
        lacking = [baseline] if differences[baseline.number - 1].problem else []
        if not problem.startswith(f"row {baseline.number}: "):
            lacking = [*groups, *lacking]
        numbers = f"row{'s' * (len(groups) > 1)} {', '.join(str(group.number) for group in groups)}"
        remedy = _remedy(problem, comparison, [run for group in lacking for run in group.finished])
        lines.append(f"no interval for {numbers}: {problem}{remedy}")
    return lines


def _remedy(problem: str, comparison: RunComparison, runs: Sequence[RunRecord]) -> str:
    """Return the commands that evaluate the runs, one per folder given on the command line."""
    if STALE not in problem and NOT_EVALUATED not in problem:
        return ""
    split = comparison.split
    other = any(run.config.get("data.val_split") != split for run in runs)
    ending = f" {shlex.quote(f'split={split}')}" if split and other else ""
    folders = [folder for folder in comparison.folders if any(run.path.is_relative_to(folder) for run in runs)]
    commands = "; ".join(f"python scripts/evaluate.py {shlex.quote(f'run={folder}')}{ending}" for folder in folders)
    return f"; evaluate {'it again' if STALE in problem else 'them'}: {commands}"

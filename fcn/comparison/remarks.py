"""Remarks below a comparison: the meaning of its numbers, and the reasons for missing ones."""

from __future__ import annotations

import shlex
from collections import defaultdict

from fcn.comparison.bootstrap import INTERVAL_MEANING
from fcn.comparison.evaluation_differences import NOT_EVALUATED, STALE
from fcn.comparison.run_comparison import RunComparison
from fcn.config.overrides import for_shell


def collect_remarks(comparison: RunComparison) -> list[str]:
    """Return the remarks, one per line."""
    lines = []
    if any(group.statistic(comparison.metric).count > 1 for group in comparison.groups):
        lines.append("mean ± sample standard deviation over seeds (number of finished runs)")
    for group in comparison.groups:
        if len({run.config["seed"] for run in group.finished}) < len(group.finished):
            lines.append(f"row {group.number} holds several runs of one seed: the deviation is not over seeds alone")
    if compared := comparison.compared:
        sources = "; ".join(dict.fromkeys(difference.source for difference in compared))
        lines.append(
            f"mIoU \N{MINUS SIGN} row {comparison.baseline.number}: difference of mean IoU, {sources}, with a "
            f"bootstrap interval. {INTERVAL_MEANING}"
        )
    unreadable = [f"{path} is left out: {problem}" for path, problem in comparison.unreadable.items()]
    return [*lines, *missing_intervals(comparison), *unreadable]


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
        remedy = f"; evaluate the runs: {_remedy(comparison)}" if problem.endswith((STALE, NOT_EVALUATED)) else ""
        lines.append(f"no interval for row{'s' * (len(numbers) > 1)} {', '.join(numbers)}: {problem}{remedy}")
    return lines


def _remedy(comparison: RunComparison) -> str:
    """Return the commands that evaluate all runs."""
    own = {run.config["data.val_split"] for group in comparison.groups for run in group.runs}
    split = "" if own == {comparison.split} else f" {shlex.quote(f'split={comparison.split}')}"
    return "; ".join(f"python scripts/evaluate.py {for_shell('run', folder)}{split}" for folder in comparison.folders)

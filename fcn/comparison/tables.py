"""Contents of the comparison tables: columns, cells and number formats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from fcn.comparison.grouping import DASH, SeedStatistic, format_setting
from fcn.comparison.run_comparison import METRIC, RowContrast, RunComparison
from fcn.comparison.run_records import BEST, SPEED

MINUS = "\N{MINUS SIGN}"


class Column(NamedTuple):
    """Column of a table: heading, texts of the cells, and whether they are numbers, which are right-aligned."""

    head: str
    cells: Sequence[str]
    numeric: bool = False


Table = Sequence[Column]


def table_rows(table: Table) -> list[tuple[str, ...]]:
    """Return the cells of a table by row, without the headings."""
    return list(zip(*(column.cells for column in table), strict=True))


def metric_columns(comparison: RunComparison) -> dict[str, str]:
    """Return the headings of the metric columns by name in `RunRecord.metrics`; the sorting metric comes first.

    The scores of evaluations, such as val/mean_iou, have the heading of the evaluated split.
    """
    metric, split = comparison.metric, comparison.split if comparison.of_evaluations else "val"
    headings = {
        METRIC: f"{split} mIoU",
        BEST: "best mIoU",
        "val/pixel_accuracy": f"{split} acc",
        "train/loss": "train loss",
        SPEED: "images/s",
    }
    return {metric: headings.get(metric, metric), **headings}


def main_table(comparison: RunComparison) -> Table:
    """Return a row per group: distinguishing keys, mean ± sd of metrics, difference to the baseline, and state."""
    groups = comparison.groups
    columns = [Column("#", [str(group.number) for group in groups], numeric=True)]
    for key, name in comparison.keys.items():
        values = [group.values[key] for group in groups]
        numeric = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
        columns.append(Column(name, list(map(format_setting, values)), numeric))
    if not comparison.keys:
        columns.append(Column("run", [group.label for group in groups]))
    counts = [group.statistic(comparison.metric).count for group in groups]
    for metric, name in metric_columns(comparison).items():
        if comparison.of_evaluations and not any(group.statistic(metric).count for group in groups):
            continue  # such as the loss, which an evaluation does not have
        known = [1] * len(groups) if metric == comparison.metric else counts  # listed once per row
        cells = [format_mean_sd(group.statistic(metric), known_count=n) for group, n in zip(groups, known, strict=True)]
        columns.append(Column(name, cells, numeric=True))
    if comparison.compared:
        cells = [format_difference(difference.value, difference.interval) for difference in comparison.differences]
        cells[comparison.baseline.number - 1] = "baseline"
        columns.append(Column(difference_heading(comparison), cells, numeric=True))
    return [*columns, Column("state", [group.state for group in groups])]


def settings_table(contrast: RowContrast) -> Table:
    """Return the keys of the configuration in which two rows differ."""
    sides = (Column(name, [both[side] for both in contrast.settings.values()]) for side, name in enumerate("AB"))
    return [Column("key", list(contrast.settings)), *sides]


def class_table(contrast: RowContrast) -> Table:
    """Return the IoU of every class in both rows and its difference, largest first."""
    deltas = contrast.ious[0] - contrast.ious[1]
    intervals = np.full_like(contrast.ious, np.nan) if contrast.intervals is None else contrast.intervals
    order = np.argsort(-deltas, kind="stable")  # NaN last
    sides = (Column(name, [format_score(iou[index]) for index in order], numeric=True)
             for iou, name in zip(contrast.ious, "AB", strict=True))  # fmt: skip
    differences = [format_difference(deltas[index], intervals[:, index].tolist()) for index in order]
    classes = Column("class", [contrast.classes[index] for index in order])
    return [classes, *sides, Column(f"A {MINUS} B", differences, numeric=True)]


def runs_table(comparison: RunComparison) -> Table:
    """Return a row per run: its group, seed, fold, state, mean IoU (the best of a run) and directory."""
    pairs = [(group, run) for group in comparison.groups for run in group.runs]
    folds = [str(run.fold[0]) if run.fold else DASH for _, run in pairs]
    score, heading = (METRIC, f"{comparison.split} mIoU") if comparison.of_evaluations else (BEST, "best mIoU")
    return [
        Column("#", [str(group.number) for group, _ in pairs], numeric=True),
        Column("seed", [str(run.config["seed"]) for _, run in pairs], numeric=True),
        *([Column("fold", folds, numeric=True)] if set(folds) != {DASH} else []),
        Column("state", [run.state for _, run in pairs]),
        Column(heading, [format_score(run.metrics.get(score, math.nan)) for _, run in pairs], numeric=True),
        Column("directory", [str(run.path) for _, run in pairs]),
    ]


def difference_heading(comparison: RunComparison) -> str:
    return f"mIoU {MINUS} row {comparison.baseline.number} [95 %]"


def format_mean_sd(statistic: SeedStatistic, *, known_count: int = 1) -> str:
    """Return `0.754 ± 0.006 (3)`; without sd for one run, without the number of runs where it is `known_count`."""
    if not statistic.count:
        return DASH
    spread = f" ± {statistic.sd:.{_decimals(statistic.mean)}f}" if statistic.count > 1 else ""
    count = f" ({statistic.count})" if statistic.count != known_count else ""
    return f"{format_score(statistic.mean)}{spread}{count}"


def format_score(value: float, *, sign: bool = False) -> str:
    """Return a number with three decimals, fewer for large values; a dash for NaN."""
    if not math.isfinite(value):
        return DASH
    decimals = 3 if sign else _decimals(value)
    text = f"{value:{'+' if sign else ''}.{decimals}f}"
    if not float(text):
        text = text.lstrip("+-")  # no sign for zero
    return text.replace("-", MINUS)


def format_difference(value: float, interval: Sequence[float]) -> str:
    """Return `+0.031 [+0.020, +0.042]`; a dash for NaN, no interval if it is NaN."""
    text = format_score(value, sign=True)
    ends = [format_score(end, sign=True) for end in interval]
    return text if DASH in (text, *ends) else f"{text} [{', '.join(ends)}]"


def _decimals(value: float) -> int:
    return 1 if abs(value) >= 100 else 2 if abs(value) >= 10 else 3

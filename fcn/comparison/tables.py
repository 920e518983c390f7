"""Contents of the comparison tables: columns, cells and number formats."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from fcn.comparison.differences import ScoreDifference
from fcn.comparison.grouping import SeedStatistic
from fcn.comparison.key_labels import DASH, MINUS, format_setting
from fcn.comparison.remarks import existing_differences
from fcn.comparison.row_contrast import RowContrast
from fcn.comparison.run_comparison import METRIC, RunComparison
from fcn.comparison.run_records import BEST, SPEED


class Table(NamedTuple):
    """Texts in columns.

    Attributes:
        heads: column headings.
        rows: one cell per column.
        numeric: whether a column holds numbers, which are right-aligned.
    """

    heads: list[str]
    rows: list[list[str]]
    numeric: list[bool]


def metric_columns(metric: str) -> dict[str, str]:
    """Return the headings of the metric columns by name in `RunRecord.metrics`; the sorting metric comes first."""
    headings = {
        METRIC: "val mIoU",
        BEST: "best mIoU",
        "val/pixel_accuracy": "val acc",
        "train/loss": "train loss",
        SPEED: "images/s",
    }
    return {metric: headings.get(metric, metric), **headings}


def main_table(comparison: RunComparison) -> Table:
    """Return a row per group: distinguishing keys, mean ± sd of metrics, difference to the baseline, and state."""
    groups = comparison.groups
    columns = [("#", True, [str(group.number) for group in groups])]
    columns += [
        (name, _is_numeric(comparison, key), [group.texts[key] for group in groups])
        for key, name in comparison.keys.items()
    ] or [("run", False, [group.label for group in groups])]
    counts = [group.statistic(comparison.metric).count for group in groups]
    for metric, name in metric_columns(comparison.metric).items():
        known = [1] * len(groups) if metric == comparison.metric else counts  # written once per row
        cells = [format_mean_sd(group.statistic(metric), known_count=n) for group, n in zip(groups, known, strict=True)]
        columns.append((name, True, cells))
    if existing_differences(comparison):
        cells = [_format_difference(difference) for difference in comparison.differences]
        cells[comparison.baseline.number - 1] = "baseline"
        columns.append((difference_heading(comparison), True, cells))
    columns.append(("state", False, [group.state for group in groups]))
    heads, numeric, texts = zip(*columns, strict=True)
    return Table(list(heads), [list(row) for row in zip(*texts, strict=True)], list(numeric))


def settings_table(contrast: RowContrast) -> Table:
    """Return the keys of the configuration in which two rows differ."""
    rows = [[key, *(", ".join(map(format_setting, values)) for values in both)] for key, *both in contrast.settings]
    return Table(["key", "A", "B"], rows, [False] * 3)


def class_table(contrast: RowContrast) -> Table:
    """Return the IoU of every class in both rows and its difference, largest first."""
    difference = contrast.difference
    deltas = contrast.ious[0] - contrast.ious[1]
    order = sorted(range(len(deltas)), key=lambda index: -deltas[index] if math.isfinite(deltas[index]) else math.inf)
    rows = []
    for index in order:
        interval = "" if difference.problem else _format_interval(difference.lows[index], difference.highs[index])
        ious = [format_score(iou[index]) for iou in contrast.ious]
        rows.append([contrast.classes[index], *ious, f"{format_score(deltas[index], sign=True)} {interval}".strip()])
    return Table(["class", "A", "B", f"A {MINUS} B"], rows, [False, True, True, True])


def runs_table(comparison: RunComparison) -> Table:
    """Return a row per run: its group, seed, state, best mean IoU and directory."""
    rows: list[list[Any]] = [
        [group.number, run.config["seed"], run.state, format_score(run.metrics.get(BEST, math.nan)), run.path]
        for group in comparison.groups
        for run in group.runs
    ]
    heads = ["#", "seed", "state", "best mIoU", "directory"]
    return Table(heads, [list(map(str, row)) for row in rows], [True, True, False, True, False])


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
        text = text.lstrip("+-")  # neither +0.000 nor -0.000
    return text.replace("-", MINUS)


def _format_difference(difference: ScoreDifference) -> str:
    if difference.problem:
        return DASH
    interval = _format_interval(difference.low, difference.high)
    return f"{format_score(difference.value, sign=True)} {interval}".strip()


def _format_interval(low: float, high: float) -> str:
    return "" if math.isnan(low) else f"[{format_score(low, sign=True)}, {format_score(high, sign=True)}]"


def _decimals(value: float) -> int:
    return 1 if abs(value) >= 100 else 2 if abs(value) >= 10 else 3


def _is_numeric(comparison: RunComparison, key: str) -> bool:
    values = (group.values[key] for group in comparison.groups)
    return all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)

"""The comparison as text: cells, and from them Markdown, CSV and the terminal's table."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from typing import Any, NamedTuple

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.console import Group as Stack
from rich.table import Table as RichTable
from rich.text import Text

from fcn.comparison.bootstrap import COVERS
from fcn.comparison.contrasts import Comparison, Contrast, headline
from fcn.comparison.score_differences import Difference, kinds_of_checkpoints
from fcn.comparison.seed_groups import ABSENT, Statistic, show

MINUS = "\N{MINUS SIGN}"


class Table(NamedTuple):
    """Text that stands in columns.

    Attributes:
        heads: of the columns.
        rows: a cell per column.
        numeric: whether a column holds numbers, which stand at the right.
    """

    heads: list[str]
    rows: list[list[str]]
    numeric: list[bool]


def main_table(comparison: Comparison) -> Table:
    """A row per group: what tells it apart, its scores as mean ± sd (n), the difference to the baseline, its state."""
    groups = comparison.groups
    columns = [("#", True, [str(group.number) for group in groups])]
    columns += [
        (name, _is_number(comparison, key), [group.texts[key] for group in groups])
        for key, name in comparison.keys.items()
    ] or [("run", False, [group.label for group in groups])]
    counts = [group.statistic(comparison.metric).count for group in groups]
    for metric, name in headline(comparison.metric).items():
        usual = [1] * len(groups) if metric == comparison.metric else counts  # said once per row
        cells = [mean_sd(group.statistic(metric), usual=count) for group, count in zip(groups, usual, strict=True)]
        columns.append((name, True, cells))
    if _compared(comparison):
        cells = [with_interval(difference) for difference in comparison.differences]
        cells[comparison.baseline.number - 1] = "baseline"
        columns.append((_versus(comparison), True, cells))
    columns.append(("state", False, [group.state for group in groups]))
    heads, numeric, texts = zip(*columns, strict=True)
    return Table(list(heads), [list(row) for row in zip(*texts, strict=True)], list(numeric))


def settings_table(contrast: Contrast) -> Table:
    """Keys of the configuration in which two groups differ."""
    rows = [[key, *(", ".join(map(show, values)) for values in both)] for key, *both in contrast.settings]
    return Table(["key", "A", "B"], rows, [False] * 3)


def class_table(contrast: Contrast) -> Table:
    """IoU of every class in both groups and its difference, largest first."""
    heads = ["class", "A", "B", f"A {MINUS} B"]
    difference = contrast.difference
    deltas = contrast.ious[0] - contrast.ious[1]
    order = sorted(range(len(deltas)), key=lambda index: -deltas[index] if math.isfinite(deltas[index]) else math.inf)
    rows = []
    for index in order:
        ends = "" if difference.problem else _ends(difference.lows[index], difference.highs[index])
        ious = [number(iou[index]) for iou in contrast.ious]
        rows.append([contrast.classes[index], *ious, f"{number(deltas[index], sign=True)} {ends}".strip()])
    return Table(heads, rows, [False, True, True, True])


def remarks(comparison: Comparison) -> list[str]:
    """What must be known to read the table, a line each."""
    lines = []
    if any(statistic.count > 1 for statistic in (group.statistic(comparison.metric) for group in comparison.groups)):
        lines.append("mean ± sample standard deviation over seeds (number of finished runs)")
    if compared := _compared(comparison):
        images = f"{compared[0].num_images} images of {comparison.split}"
        lines.append(
            f"mIoU {MINUS} row {comparison.baseline.number}: difference of mean IoU, {kinds_of_checkpoints(compared)} "
            f"on {images}, with a bootstrap interval. {COVERS}"
        )
    return [*lines, *comparison.notes, *(f"{one.path} is left out: {one.problem}" for one in comparison.broken)]


def mean_sd(statistic: Statistic, *, usual: int = 1) -> str:
    """0.754 ± 0.006 (3); without a deviation for one run, without the number of runs where it is the usual one."""
    if not statistic.count:
        return ABSENT
    spread = f" ± {statistic.sd:.{_decimals(statistic.mean)}f}" if statistic.count > 1 else ""
    count = f" ({statistic.count})" if statistic.count != usual else ""
    return f"{number(statistic.mean)}{spread}{count}"


def with_interval(difference: Difference) -> str:
    """+0.031 [+0.012, +0.049]; a dash where there is none."""
    if difference.problem:
        return ABSENT
    return f"{number(difference.value, sign=True)} {_ends(difference.low, difference.high)}".strip()


def number(value: float, *, sign: bool = False) -> str:
    """Three decimals, fewer for large values; a true minus; a dash for NaN."""
    if not math.isfinite(value):
        return ABSENT
    decimals = 3 if sign else _decimals(value)
    text = f"{value:{'+' if sign else ''}.{decimals}f}"
    if not float(text):
        text = text.lstrip("+-")  # neither +0.000 nor -0.000
    return text.replace("-", MINUS)


def markdown(comparison: Comparison, contrast: Contrast | None = None) -> str:
    """Tables and remarks for a paper or an issue."""
    text = markdown_table(main_table(comparison))
    text += "".join(f"- {escaped(line)}\n" for line in remarks(comparison))
    if contrast:
        text += f"\n### A: {escaped(contrast.names[0])}; B: {escaped(contrast.names[1])}\n\n"
        text += f"{markdown_table(settings_table(contrast))}IoU per class: {escaped(contrast.source)}\n\n"
        text += markdown_table(class_table(contrast)) if len(contrast.classes) else ""
    return text.rstrip() + "\n"


def markdown_table(table: Table) -> str:
    """A table of GitHub's Markdown, with an empty line after it."""
    rule = ["---:" if numeric else "---" for numeric in table.numeric]
    lines = [map(escaped, table.heads), rule, *(map(escaped, row) for row in table.rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines) + "\n"


def escaped(text: str) -> str:
    """Text that Markdown shows as it is, on one line; underscores inside of words are no emphasis."""
    special = r"[\\`*<|$&~]|(?<=\])(?=\()|(?<![^\W_])_|_(?![^\W_])"
    return re.sub(special, lambda found: f"\\{found[0]}", " ".join(text.split()))


def csv_text(comparison: Comparison) -> str:
    """A line per group with all digits; an empty cell where a number does not exist."""
    names = headline(comparison.metric)
    heads = ["row", *comparison.keys]
    heads += [f"{name}{end}" for name in names for end in ("", " sd", " n")]
    heads += ["difference", "difference low", "difference high", "finished", "runs", "state", "folders"]
    rows: list[list[Any]] = []
    for group, difference in zip(comparison.groups, comparison.differences, strict=True):
        statistics = [value for name in names for value in astuple(group.statistic(name))]
        interval = [difference.value, difference.low, difference.high]
        folders = ";".join(str(run.path) for run in group.runs)
        settings = [show(value) if value is not ... else "" for value in group.values.values()]
        counts = [len(group.finished), len(group.runs), group.state, folders]
        rows.append([group.number, *settings, *statistics, *interval, *counts])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows([["" if cell != cell else cell for cell in row] for row in rows])  # NaN differs from itself
    return text.getvalue()


@dataclass(frozen=True)
class Fitted:
    """The main table in a terminal. Where that is too narrow, all keys share a column, or scores are left out."""

    comparison: Comparison

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        full = main_table(self.comparison)
        versus = _versus(self.comparison)
        complete = all(group.finished == group.runs for group in self.comparison.groups)
        # That all runs are finished says less than how sure a difference is; that one has failed says more.
        last = ["state", versus] if complete and versus in full.heads else [versus]
        spare = [head for head in ("images/s", "train loss", "val acc", "best mIoU", *last) if head in full.heads]
        attempts = [(left_out, merged) for left_out in range(len(spare) + 1) for merged in (False, True)]
        for left_out, merged in attempts:
            table = _without(full, spare[:left_out])
            shown = rich_table(_merged(table, self.comparison) if merged else table)
            if console.measure(shown, options=options.update(max_width=10**4)).minimum <= options.max_width:
                break
        yield shown
        if left_out:
            yield Text(f"no room for {', '.join(spare[:left_out])}", style="dim")


def _without(table: Table, heads: Sequence[str]) -> Table:
    kept = [place for place, head in enumerate(table.heads) if head not in heads]
    rows = [[row[place] for place in kept] for row in table.rows]
    return Table([table.heads[place] for place in kept], rows, [table.numeric[place] for place in kept])


def _merged(table: Table, comparison: Comparison) -> Table:
    """One column, whose lines may be broken, in the place of all keys."""
    after = 1 + max(1, len(comparison.keys))
    pairs = zip(table.rows, comparison.groups, strict=True)
    rows = [[row[0], group.label, *row[after:]] for row, group in pairs]
    return Table(["#", "settings", *table.heads[after:]], rows, [True, False, *table.numeric[after:]])


def renderable(comparison: Comparison, contrast: Contrast | None = None) -> RenderableType:
    """What is printed in a terminal."""
    parts: list[RenderableType] = [Fitted(comparison)]
    parts += [Text(line, style="dim") for line in remarks(comparison)]
    if contrast:
        parts.append(Text(f"\nA: {contrast.names[0]}\nB: {contrast.names[1]}"))
        parts.append(rich_table(settings_table(contrast)))
        parts.append(Text(f"IoU per class: {contrast.source}"))
        parts += [rich_table(class_table(contrast))] if len(contrast.classes) else []
    return Stack(*parts)


def rich_table(table: Table) -> RichTable:
    """The table for a terminal; numbers are never broken, other texts where they must."""
    shown = RichTable()
    for place, (head, numeric) in enumerate(zip(table.heads, table.numeric, strict=True)):
        texts = [cells[place] for cells in [table.heads, *table.rows]]
        least = max(map(len, texts)) if numeric else min(22, max(len(word) for text in texts for word in text.split()))
        shown.add_column(Text(head), justify="right" if numeric else "left", overflow="fold", no_wrap=numeric,
                         min_width=least)  # fmt: skip
    for row in table.rows:
        shown.add_row(*map(Text, row))
    return shown


def _compared(comparison: Comparison) -> list[Difference]:
    """Differences to the baseline that exist."""
    pairs = zip(comparison.groups, comparison.differences, strict=True)
    return [difference for group, difference in pairs if group is not comparison.baseline and not difference.problem]


def _versus(comparison: Comparison) -> str:
    return f"mIoU {MINUS} row {comparison.baseline.number} [95 %]"


def _is_number(comparison: Comparison, key: str) -> bool:
    values: Iterable[Any] = (group.values[key] for group in comparison.groups)
    return all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)


def _ends(low: float, high: float) -> str:
    return "" if math.isnan(low) else f"[{number(low, sign=True)}, {number(high, sign=True)}]"


def _decimals(value: float) -> int:
    return 1 if abs(value) >= 100 else 2 if abs(value) >= 10 else 3

"""The comparison in a terminal, as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import astuple, dataclass
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table as RichTable
from rich.text import Text

from fcn.comparison.grouping import format_setting
from fcn.comparison.remarks import collect_remarks
from fcn.comparison.run_comparison import RowContrast, RunComparison
from fcn.comparison.tables import (
    Column,
    Table,
    class_table,
    difference_heading,
    main_table,
    metric_columns,
    settings_table,
    table_rows,
)
from fcn.runs import Status


def to_terminal(comparison: RunComparison, contrast: RowContrast | None = None) -> RenderableType:
    """Return tables and remarks for printing with rich."""
    parts: list[RenderableType] = [_FittedTable(comparison)]
    parts += [Text(line, style="dim") for line in collect_remarks(comparison)]
    if contrast:
        parts.append(Text(f"\nA: {contrast.names[0]}\nB: {contrast.names[1]}"))
        parts.append(_rich_table(settings_table(contrast)))
        parts.append(Text(f"IoU per class: {contrast.source}"))
        parts += [_rich_table(class_table(contrast))] if len(contrast.classes) else []
    return Group(*parts)


@dataclass(frozen=True)
class _FittedTable:
    """The main table; in a narrow terminal, all keys share a column, then other columns are left out."""

    comparison: RunComparison

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        full = main_table(self.comparison)
        heads = [column.head for column in full]
        accuracy = metric_columns(self.comparison)["val/pixel_accuracy"]
        is_finished = all(run.state is Status.finished for group in self.comparison.groups for run in group.runs)
        state = ["state"] if is_finished else []
        columns = ("images/s", "train loss", accuracy, "best mIoU", *state, difference_heading(self.comparison))
        optional = [head for head in columns if head in heads]
        settings = Column("settings", [group.label for group in self.comparison.groups])
        merged = [full[0], settings, *full[1 + max(1, len(self.comparison.keys)) :]]
        for omitted, table in ((optional[:number], table) for number in range(len(optional) + 1)
                               for table in (full, merged)):  # fmt: skip
            rendered = _rich_table([column for column in table if column.head not in omitted])
            if 1 + sum((column.min_width or 0) + 3 for column in rendered.columns) <= options.max_width:
                break
        yield rendered
        if omitted:
            yield Text(f"columns omitted to fit the terminal: {', '.join(omitted)}", style="dim")


def _rich_table(table: Table) -> RichTable:
    """Return a table for rich: numbers never wrap, other texts wrap where necessary."""
    rich_table = RichTable()
    for head, cells, numeric in table:
        texts = [head, *cells]
        width = max(map(len, texts)) if numeric else min(22, max(len(word) for text in texts for word in text.split()))
        rich_table.add_column(
            Text(head), justify="right" if numeric else "left", overflow="fold", no_wrap=numeric, min_width=width
        )
    for row in table_rows(table):
        rich_table.add_row(*map(Text, row))
    return rich_table


def to_markdown(comparison: RunComparison, contrast: RowContrast | None = None) -> str:
    """Return tables and remarks as GitHub's Markdown."""
    text = _markdown_table(main_table(comparison))
    text += "".join(f"- {escape_markdown(line)}\n" for line in collect_remarks(comparison))
    if contrast:
        text += f"\n### A: {escape_markdown(contrast.names[0])}; B: {escape_markdown(contrast.names[1])}\n\n"
        text += f"{_markdown_table(settings_table(contrast))}IoU per class: {escape_markdown(contrast.source)}\n\n"
        text += _markdown_table(class_table(contrast)) if len(contrast.classes) else ""
    return text.rstrip() + "\n"


def _markdown_table(table: Table) -> str:
    """Return a table followed by an empty line."""
    rule = ["---:" if column.numeric else "---" for column in table]
    heads = [escape_markdown(column.head) for column in table]
    lines = [heads, rule, *(map(escape_markdown, row) for row in table_rows(table))]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines) + "\n"


def escape_markdown(text: str) -> str:
    """Return a text on one line, escaped so that Markdown shows it literally; underscores within words need none."""
    special = r"[\\`*<|$&~]|(?<=\])(?=\()|(?<![^\W_])_|_(?![^\W_])"
    return re.sub(special, lambda match: f"\\{match[0]}", " ".join(text.split()))


def to_csv(comparison: RunComparison) -> str:
    """Return a line per group with all digits; an undefined number is an empty cell."""
    names = metric_columns(comparison)
    heads = ["row", *comparison.keys]
    heads += [f"{name}{end}" for name in names for end in ("", " sd", " n")]
    heads += ["difference", "difference low", "difference high", "finished", "runs", "state", "folders"]
    rows: list[list[Any]] = []
    for group, difference in zip(comparison.groups, comparison.differences, strict=True):
        settings = [format_setting(value) if value is not ... else "" for value in group.values.values()]
        statistics = [value for name in names for value in astuple(group.statistic(name))]
        folders = ";".join(str(run.path) for run in group.runs)
        counts = [len(group.finished), len(group.runs), group.state, folders]
        rows.append([group.number, *settings, *statistics, difference.value, *difference.interval, *counts])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows([["" if cell != cell else cell for cell in row] for row in rows])  # NaN differs from itself
    return text.getvalue()

"""The comparison as Markdown and CSV."""

from __future__ import annotations

import csv
import io
import re
from dataclasses import astuple
from typing import Any

from fcn.comparison.key_labels import format_setting
from fcn.comparison.remarks import collect_remarks
from fcn.comparison.row_contrast import RowContrast
from fcn.comparison.run_comparison import RunComparison
from fcn.comparison.tables import Table, class_table, main_table, metric_columns, settings_table


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
    rule = ["---:" if numeric else "---" for numeric in table.numeric]
    lines = [map(escape_markdown, table.heads), rule, *(map(escape_markdown, row) for row in table.rows)]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines) + "\n"


def escape_markdown(text: str) -> str:
    """Return a text on one line, escaped so that Markdown shows it literally; underscores within words need none."""
    special = r"[\\`*<|$&~]|(?<=\])(?=\()|(?<![^\W_])_|_(?![^\W_])"
    return re.sub(special, lambda match: f"\\{match[0]}", " ".join(text.split()))


def to_csv(comparison: RunComparison) -> str:
    """Return a line per group with all digits; an undefined number is an empty cell."""
    names = metric_columns(comparison.metric)
    heads = ["row", *comparison.keys]
    heads += [f"{name}{end}" for name in names for end in ("", " sd", " n")]
    heads += ["difference", "difference low", "difference high", "finished", "runs", "state", "folders"]
    rows: list[list[Any]] = []
    for group, difference in zip(comparison.groups, comparison.differences, strict=True):
        settings = [format_setting(value) if value is not ... else "" for value in group.values.values()]
        statistics = [value for name in names for value in astuple(group.statistic(name))]
        interval = [difference.value, difference.low, difference.high]
        folders = ";".join(str(run.path) for run in group.runs)
        counts = [len(group.finished), len(group.runs), group.state, folders]
        rows.append([group.number, *settings, *statistics, *interval, *counts])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(heads)
    writer.writerows([["" if cell != cell else cell for cell in row] for row in rows])  # NaN differs from itself
    return text.getvalue()

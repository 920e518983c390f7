"""The comparison in a terminal; tables are fitted to its width."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table as RichTable
from rich.text import Text

from fcn.comparison.remarks import collect_remarks
from fcn.comparison.row_contrast import RowContrast
from fcn.comparison.run_comparison import RunComparison
from fcn.comparison.tables import Table, class_table, difference_heading, main_table, settings_table


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
    """The main table; in a narrow terminal, all keys share a column, then metric columns are left out."""

    comparison: RunComparison

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        full = main_table(self.comparison)
        difference = difference_heading(self.comparison)
        complete = all(group.finished == group.runs for group in self.comparison.groups)
        # The state matters less than the difference if all runs are finished, and more if a run has failed.
        last = ["state", difference] if complete and difference in full.heads else [difference]
        optional = [head for head in ("images/s", "train loss", "val acc", "best mIoU", *last) if head in full.heads]
        for num_omitted, merged in (
            (number, merged) for number in range(len(optional) + 1) for merged in (False, True)
        ):
            table = _omit_columns(full, optional[:num_omitted])
            rendered = _rich_table(_merge_keys(table, self.comparison) if merged else table)
            if console.measure(rendered, options=options.update(max_width=10**4)).minimum <= options.max_width:
                break
        yield rendered
        if num_omitted:
            yield Text(f"columns omitted to fit the terminal: {', '.join(optional[:num_omitted])}", style="dim")


def _omit_columns(table: Table, heads: Sequence[str]) -> Table:
    kept = [place for place, head in enumerate(table.heads) if head not in heads]
    rows = [[row[place] for place in kept] for row in table.rows]
    return Table([table.heads[place] for place in kept], rows, [table.numeric[place] for place in kept])


def _merge_keys(table: Table, comparison: RunComparison) -> Table:
    """Replace the columns of all keys by one whose lines can wrap."""
    after = 1 + max(1, len(comparison.keys))
    pairs = zip(table.rows, comparison.groups, strict=True)
    rows = [[row[0], group.label, *row[after:]] for row, group in pairs]
    return Table(["#", "settings", *table.heads[after:]], rows, [True, False, *table.numeric[after:]])


def _rich_table(table: Table) -> RichTable:
    """Return a table for rich: numbers never wrap, other texts wrap where necessary."""
    rich_table = RichTable()
    for place, (head, numeric) in enumerate(zip(table.heads, table.numeric, strict=True)):
        texts = [cells[place] for cells in [table.heads, *table.rows]]
        width = max(map(len, texts)) if numeric else min(22, max(len(word) for text in texts for word in text.split()))
        rich_table.add_column(
            Text(head), justify="right" if numeric else "left", overflow="fold", no_wrap=numeric, min_width=width
        )
    for row in table.rows:
        rich_table.add_row(*map(Text, row))
    return rich_table

"""Tables of the results in Markdown, for a terminal and for a page. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.results import Breakdown, Result, Spread


def format_number(value: float) -> str:
    """Format with three significant digits, and all digits before the decimal point."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip(".")


def format_spread(spread: Spread, unit: str) -> str:
    """Format median, unit and quartiles, such as `2.31x (2.25..2.38)`."""
    quartiles = f" ({format_number(spread.low)}..{format_number(spread.high)})" if len(spread.rounds) > 1 else ""
    return f"{format_number(spread.median)}{unit if unit in ('', 'x') else f' {unit}'}{quartiles}"


def markdown_tables(results: Sequence[Result], breakdowns: Sequence[Breakdown]) -> str:
    """Return one table of all results, and one per breakdown."""
    lines: list[str] = []
    if results:
        rows = [_result_row(result) for result in results]
        lines += _table(("quantity", "reference", "ours", "its", "ratio", "goal", ""), rows)
    for breakdown in breakdowns:
        rows = [(name, format_number(ms), f"{100 * ms / breakdown.step_ms:.1f} %") for name, ms in breakdown.phases]
        title = f"{breakdown.name}: {format_number(breakdown.step_ms)} ms"
        lines += ["", title, "", *_table(("phase", "ms", "share"), rows)]
    return "\n".join([*lines, ""])


def markdown_header(record: Mapping[str, Any]) -> str:
    """Return command, commit and machine in one line; `record` is the header of the JSON file."""
    machine = record["machine"]
    devices = ", ".join(machine.get("gpus", [])) or f"{machine['processor']}, {machine['cores']} cores"
    commit = f"{str(record['commit'])[:7]}{' with changes' if record['dirty'] else ''}"
    load = "" if machine.get("load_before") is None else f", load {machine['load_before']:.1f} before"
    return f"`{record['command']}`, commit {commit}, {devices}, {machine['threads']} threads{load}.\n"


def _result_row(result: Result) -> tuple[str, ...]:
    """Return the cells of a result; the last one states whether the goal is met, and by both quartiles."""
    verdict = {None: "", True: "met", False: "not met"}[result.met]
    if verdict and not result.certain:
        verdict += ", uncertain"
    name = f"{result.name} ({result.note})" if result.note else result.name
    theirs = "" if result.theirs is None else format_spread(result.theirs, result.unit)
    ratio = "" if result.ratio is None else format_spread(result.ratio, result.ratio_unit)
    return name, result.reference, format_spread(result.ours, result.unit), theirs, ratio, result.goal_text, verdict


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    table = (headings, ("---",) * len(headings), *rows)
    return [f"| {' | '.join(cell.replace('|', '/') for cell in cells)} |" for cells in table]

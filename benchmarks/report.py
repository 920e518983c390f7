"""What was measured, for people: tables for a terminal and for a page. Imports no torch."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from benchmarks.results import Breakdown, Findings, Result, Spread, goal_text

HEADS = ("what", "ours", "reference", "ratio", "goal", "")


def cells(result: Result) -> tuple[str, ...]:
    """A row under `HEADS`: median and quartiles of the rounds; whether the goal is met, and by the quartiles too."""
    verdict = {None: "", True: "met", False: "not met"}[result.met]
    if verdict and not result.certain:
        verdict += ", uncertain"
    theirs = "" if result.theirs is None else f"{figure(result.theirs.median)} {result.unit}"
    goal = goal_text(result)
    return result.name, f"{_with_range(result.ours)} {result.unit}", theirs, ratio_text(result), goal, verdict


def ratio_text(result: Result) -> str:
    """`2.31x (2.25..2.38)`, or in per cent; empty without a reference."""
    if result.ratio is None:
        return ""
    unit = "x" if result.ratio_unit == "x" else f" {result.ratio_unit}"
    low, high = figure(result.ratio.low), figure(result.ratio.high)
    spread = f" ({low}..{high})" if len(result.ratio.rounds) > 1 else ""
    return f"{figure(result.ratio.median)}{unit}{spread}"


def _with_range(spread: Spread) -> str:
    if len(spread.rounds) == 1:
        return figure(spread.median)
    return f"{figure(spread.median)} ({figure(spread.low)}..{figure(spread.high)})"


def figure(value: float) -> str:
    """Three digits that count, and all digits before the point."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:#.3g}".rstrip(".")


def renderable(findings: Findings) -> RenderableType:
    """Tables for a terminal: results by what they are compared with, notes below, then the breakdowns."""
    groups = itertools.groupby(findings.results, key=lambda result: result.reference)
    tables = [_results(reference, list(results)) for reference, results in groups]
    return Group(*tables, *(_phases(breakdown) for breakdown in findings.breakdowns))


def _results(reference: str, results: Sequence[Result]) -> Table:
    notes = "\n".join(dict.fromkeys(result.note for result in results if result.note))
    table = _table(HEADS, f"against {reference}" if reference else "alone", notes)
    for result in results:
        *row, verdict = cells(result)
        color = {None: "default", True: "green", False: "red"}[result.met] if result.certain else "default"
        table.add_row(*row, f"[{color}]{verdict}[/{color}]")
    return table


def _table(heads: Sequence[str], title: str, notes: str = "") -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", caption=notes, caption_justify="left")
    for number, head in enumerate(heads):
        table.add_column(head, justify="right" if 0 < number < 4 else "left")
    return table


def _phases(breakdown: Breakdown) -> Table:
    title = f"{breakdown.name}: {figure(breakdown.step_ms)} ms"
    table = _table(("phase", "ms", "share"), title)
    for phase, value in breakdown.phases:
        table.add_row(phase, figure(value), f"{100 * value / breakdown.step_ms:.1f} %")
    return table


def markdown(findings: Findings, recorded: Mapping[str, Any]) -> str:
    """The same tables for docs/performance.md, below the machine and the command.

    Args:
        findings: what was measured.
        recorded: `command`, `commit`, `dirty`, `machine`, as the JSON file has them.
    """
    machine = recorded["machine"]
    devices = ", ".join(machine.get("gpus", [])) or f"{machine['processor']}, {machine['cores']} cores"
    commit = f"{str(recorded['commit'])[:7]}{' with changes' if recorded['dirty'] else ''}"
    load = machine.get("load_before")
    others = "" if load is None else f", load {load:.1f} before"  # what else ran on the machine
    lines = [f"`{recorded['command']}`, commit {commit}, {devices}, {machine['threads']} threads{others}.", ""]
    if findings.results:
        lines += _rows(("what", "reference", *HEADS[1:2], "its", *HEADS[3:5], "met"))
        for result in findings.results:
            name, ours, theirs, ratio, goal, verdict = cells(result)
            note = f" ({result.note})" if result.note else ""
            lines.append(_row((f"{name}{note}", result.reference, ours, theirs, ratio, goal, verdict)))
    for breakdown in findings.breakdowns:
        lines += ["", f"{breakdown.name}: {figure(breakdown.step_ms)} ms", "", *_rows(("phase", "ms", "share"))]
        lines += [
            _row((phase, figure(value), f"{100 * value / breakdown.step_ms:.1f} %"))
            for phase, value in breakdown.phases
        ]
    return "\n".join([*lines, ""])


def _rows(heads: tuple[str, ...]) -> list[str]:
    return [_row(heads), _row(("---",) * len(heads))]


def _row(values: tuple[str, ...]) -> str:
    return f"| {' | '.join(value.replace('|', '/') for value in values)} |"

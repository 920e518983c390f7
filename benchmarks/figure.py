"""A picture of what was measured: speed-ups with their spread and goals, and the parts of a step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from PIL import Image

from benchmarks.report import figure as digits
from benchmarks.report import ratio_text
from benchmarks.results import BenchmarkError, Breakdown, Findings, Result
from fcn.visualization.figure_style import new_figure, render_figure

# Okabe and Ito's, which the colour blind tell apart, and greys.
_OURS, _GOAL, _ONE = "#0072b2", "#d55e00", "0.45"
_PHASES = ("0.8", "0.6", "#0072b2", "#56b4e9", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "0.3")
_DARK = {2, 5, 7, 8}
"""Numbers of the phases whose colours want white letters."""


def benchmark_figure(findings: Findings) -> Image.Image:
    """Speed-ups on a logarithmic axis, then a bar of the phases for every breakdown.

    Raises:
        BenchmarkError: if there is neither a speed-up nor a breakdown.
    """
    ratios = [result for result in findings.results if result.ratio is not None and result.ratio_unit == "x"]
    heights = [height for height in (0.42 * len(ratios), 0.75 * len(findings.breakdowns)) if height]
    if not heights:
        raise BenchmarkError("--plot needs a speed-up or a breakdown; measure `step` or `breakdown` as well")
    size = (10.5, sum(heights) + 1.3 * len(heights))
    drawing = new_figure(*size, dpi=110)
    drawing.set_layout_engine("constrained", w_pad=0.12, h_pad=0.12, hspace=0.06)
    axes = list(drawing.subplots(len(heights), 1, height_ratios=heights, squeeze=False).flat)
    if ratios:
        _draw_ratios(axes[0], ratios)
    if findings.breakdowns:
        _draw_phases(drawing, axes[-1], findings.breakdowns)
    return render_figure(drawing)


def _draw_ratios(axes: Axes, results: Sequence[Result]) -> None:
    """A point with its quartiles per result, and a mark at the goal; the dashed line is the reference's own figure."""
    places = range(len(results))
    for place, result in zip(places, results, strict=True):
        assert result.ratio is not None
        ratio = result.ratio
        axes.plot([ratio.low, ratio.high], [place, place], color=_OURS, linewidth=2, alpha=0.5)
        axes.plot(ratio.median, place, "o", color=_OURS, markersize=6)
        if result.goal and not result.goal.of_ours:
            axes.plot(result.goal.bound, place, "|", color=_GOAL, markersize=15, markeredgewidth=2.5)
        right: dict[str, Any] = {"xycoords": ("axes fraction", "data"), "textcoords": "offset points"}
        axes.annotate(ratio_text(result), (1, place), (6, 0), va="center", fontsize=9, **right)
    axes.axvline(1, color=_ONE, linestyle=(0, (5, 3)), linewidth=1.2, zorder=0)
    axes.set_xscale("log")
    values = [bound for one in results if one.ratio for bound in (one.ratio.low, one.ratio.high, 1.0, _bound(one))]
    axes.set_xlim(min(0.5, min(values) / 1.3), max(2, max(values) * 1.3))  # three ticks at least
    axes.set_ylim(len(results) - 0.5, -0.5)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_yticks(places, [result.name for result in results], fontsize=9, parse_math=False)
    title = "times as fast as the reference: median, quartiles, and the goal in orange"
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.grid(axis="x", color="0.9")
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _bound(result: Result) -> float:
    return result.goal.bound if result.goal and not result.goal.of_ours else 1.0


def _draw_phases(drawing: Figure, axes: Axes, breakdowns: Sequence[Breakdown]) -> None:
    """A bar of one length per step, cut into its phases; what is below zero, hidden by overlap, is left out."""
    for place, breakdown in enumerate(breakdowns):
        shown = [(phase, max(value, 0.0)) for phase, value in breakdown.phases]
        total, left = sum(value for _, value in shown), 0.0
        for number, (phase, value) in enumerate(shown):
            width = 100 * value / total
            label = phase if place == 0 else None
            axes.barh(place, width, left=left, height=0.55, color=_PHASES[number % len(_PHASES)], label=label)
            ink = "white" if number in _DARK else "0.1"
            if width >= 4:
                axes.text(left + width / 2, place, f"{width:.0f}", ha="center", va="center", fontsize=9, color=ink)
            left += width
    names = [f"{breakdown.name}\n{digits(breakdown.step_ms)} ms" for breakdown in breakdowns]
    axes.set_yticks(range(len(breakdowns)), names, fontsize=9, parse_math=False)
    axes.set_ylim(len(breakdowns) - 0.5, -0.5)
    axes.set_xlim(0, 100)
    axes.set_xlabel("share of the step, %")
    axes.set_title("where a step's time goes", loc="left", fontsize=11, fontweight="bold")
    axes.tick_params(axis="y", length=0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    drawing.legend(loc="outside lower center", ncols=5, fontsize=9, frameon=False)

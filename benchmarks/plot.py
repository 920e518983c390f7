"""Plot of the results: speed-ups with quartiles and goals, and the phases of a step."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from PIL import Image

from benchmarks.report import format_number, format_spread
from benchmarks.results import BenchmarkError, Breakdown, Result
from fcn.visualization.figure_style import new_figure, remove_frame, render_figure

# Colours of Okabe and Ito, which are distinguishable with colour blindness, and greys.
_OURS, _GOAL, _ONE = "#0072b2", "#d55e00", "0.45"
_PHASES = ("0.8", "0.6", "#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "0.3")


def draw_benchmarks(results: Sequence[Result], breakdowns: Sequence[Breakdown]) -> Image.Image:
    """Draw speed-ups on a logarithmic axis, and a bar of phases per breakdown.

    Raises:
        BenchmarkError: if there is neither a speed-up nor a breakdown.
    """
    speedups = [result for result in results if result.ratio is not None and result.ratio_unit == "x"]
    heights = [height for height in (0.42 * len(speedups), 0.75 * len(breakdowns)) if height]
    if not heights:
        raise BenchmarkError("--plot needs a speed-up or a breakdown; measure `step` or `breakdown` as well")
    figure = new_figure(10.5, sum(heights) + 1.3 * len(heights), dpi=110)
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.12, hspace=0.06)
    axes = list(figure.subplots(len(heights), 1, height_ratios=heights, squeeze=False).flat)
    if speedups:
        _draw_speedups(axes[0], speedups)
    if breakdowns:
        _draw_phases(figure, axes[-1], breakdowns)
    return render_figure(figure)


def _draw_speedups(axes: Axes, results: Sequence[Result]) -> None:
    """Draw median, quartiles and goal of every result; the dashed line is the reference."""
    limits = [0.65, 1.54]  # wide enough for three ticks
    for place, result in enumerate(results):
        assert result.ratio is not None
        ratio = result.ratio
        axes.plot([ratio.low, ratio.high], [place, place], color=_OURS, linewidth=2, alpha=0.5)
        axes.plot(ratio.median, place, "o", color=_OURS, markersize=6)
        limits += [ratio.low, ratio.high]
        if result.goal and not result.goal.of_ours:
            axes.plot(result.goal.bound, place, "|", color=_GOAL, markersize=15, markeredgewidth=2.5)
            limits.append(result.goal.bound)
        text, right = format_spread(ratio, "x"), axes.get_yaxis_transform()
        axes.text(1.01, place, text, transform=right, va="center", fontsize=9)
    axes.axvline(1, color=_ONE, linestyle=(0, (5, 3)), linewidth=1.2, zorder=0)
    axes.set_xscale("log")
    axes.set_xlim(min(limits) / 1.3, max(limits) * 1.3)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}x"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(axis="x", color="0.9")
    title = "speed-up over the reference: median, quartiles, and the goal in orange"
    _style_rows(axes, [result.name for result in results], title)


def _draw_phases(figure: Figure, axes: Axes, breakdowns: Sequence[Breakdown]) -> None:
    """Draw one bar per step, divided into its phases; a negative remainder is omitted."""
    for place, breakdown in enumerate(breakdowns):
        durations = [max(value, 0.0) for _, value in breakdown.phases]
        left = 0.0
        for number, ((name, _), duration) in enumerate(zip(breakdown.phases, durations, strict=True)):
            width = 100 * duration / sum(durations)
            bar = axes.barh(place, width, left=left, height=0.55, color=_PHASES[number], label=None if place else name)
            axes.bar_label(bar, [f"{width:.0f}" if width >= 4 else ""], label_type="center", fontsize=9)
            left += width
    axes.set_xlim(0, 100)
    axes.set_xlabel("share of the step, %")
    names = [f"{breakdown.name}\n{format_number(breakdown.step_ms)} ms" for breakdown in breakdowns]
    _style_rows(axes, names, "phases of a step")
    figure.legend(loc="outside lower center", ncols=4, fontsize=9, frameon=False)


def _style_rows(axes: Axes, names: Sequence[str], title: str) -> None:
    axes.set_yticks(range(len(names)), names, fontsize=9, parse_math=False)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold")
    axes.tick_params(axis="y", length=0)
    remove_frame(axes, "top", "right", "left")

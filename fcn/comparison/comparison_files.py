"""Files of a comparison: tables and curves, beside the runs that they are about."""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from rich.console import Group as Stack
from rich.console import RenderableType
from rich.text import Text

from fcn import runs
from fcn.comparison.contrasts import Comparison, Contrast, compare, contrast
from fcn.comparison.seed_groups import title
from fcn.comparison.tables import csv_text, markdown, renderable

MARKDOWN, CSV, FIGURE = "comparison.md", "comparison.csv", "comparison.png"


def write_comparison(folder: Path) -> RenderableType:
    """Write comparison.md, comparison.csv and comparison.png (the curves) into `folder`, which holds runs.

    Files from before are replaced. A figure that cannot be drawn is said in the last line and loses no table.

    Returns:
        What to print: the table, and what must be known to read it.

    Raises:
        ComparisonError: if there is no run below the folder.
    """
    comparison = compare([folder])
    runs.write_text(folder / MARKDOWN, markdown(comparison, pair_of(comparison)))
    runs.write_text(folder / CSV, csv_text(comparison))
    try:
        from fcn.visualization.png_files import save_png  # Matplotlib is not waited for before the tables are there

        save_png(curves(comparison), folder / FIGURE)
        problem = ""
    except Exception as error:
        problem = f"{FIGURE} could not be drawn: {error}"
    return Stack(renderable(comparison), *([Text(problem)] if problem else []))


def pair_of(comparison: Comparison) -> Contrast | None:
    """The contrast that shows itself: of the only two rows, or of the first and a baseline that was chosen."""
    if len(comparison.groups) == 2:
        return contrast(comparison, *comparison.groups)
    first = comparison.groups[0]
    return contrast(comparison, first, comparison.baseline) if comparison.baseline is not first else None


def curves(comparison: Comparison) -> Image.Image:
    """Curves of all groups, in the order of the rows.

    Raises:
        ValueError: if no run has an epoch.
    """
    from fcn.visualization.group_curves import draw_group_curves

    return draw_group_curves(
        {title(group): [runs.read_metrics(run.path) for run in group.runs] for group in comparison.groups},
        metric=comparison.metric,
    )


def class_bars(between: Contrast) -> Image.Image:
    """Differences per class as bars.

    Raises:
        ValueError: if no class is scored in both.
    """
    from fcn.visualization.class_differences import draw_class_differences

    difference = between.difference
    intervals = None if difference.problem else list(zip(difference.lows, difference.highs, strict=True))
    deltas = (between.ious[0] - between.ious[1]).tolist()
    return draw_class_differences(between.classes, deltas, names=between.names, intervals=intervals)

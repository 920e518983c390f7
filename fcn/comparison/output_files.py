"""Files of a comparison: tables, figures and the HTML page in one folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PIL import Image
from rich.console import Group, RenderableType
from rich.text import Text

from fcn import errors, runs
from fcn.comparison.html_page import Picture, to_html
from fcn.comparison.row_contrast import RowContrast, default_contrast
from fcn.comparison.run_comparison import RunComparison, compare_runs
from fcn.comparison.run_records import ComparisonError
from fcn.comparison.terminal_tables import to_terminal
from fcn.comparison.text_formats import to_csv, to_markdown

HTML, MARKDOWN, CSV = "comparison.html", "comparison.md", "comparison.csv"
CURVES, CLASSES, PREDICTIONS = "comparison.png", "class_differences.png", "predictions.png"

Drawing = Callable[[], tuple[Image.Image, str]]
"""Function that draws a figure and returns it with its caption."""


def summarize_sweep(folder: Path) -> RenderableType:
    """Compare the runs in a folder and write comparison.md, comparison.csv and comparison.png into it.

    Returns:
        Table and remarks for the terminal.

    Raises:
        ComparisonError: if there is no run below the folder.
    """
    comparison = compare_runs([folder])
    _write_tables(folder, comparison, default_contrast(comparison))
    curves = _draw_and_save(folder / CURVES, "Curves", lambda: _draw_curves(comparison))
    problem = [] if curves.image else [Text(f"{CURVES} could not be drawn: {curves.caption}")]
    return Group(to_terminal(comparison), *problem)


def write_comparison(
    folder: Path, comparison: RunComparison, contrast: RowContrast | None, *, draw_predictions: Drawing | None
) -> list[str]:
    """Write tables, figures and the HTML page of a comparison into a folder, and replace those of an earlier one.

    Args:
        folder: created if necessary.
        comparison: the compared runs.
        contrast: two rows set side by side; without it there is no figure of differences per class.
        draw_predictions: draws predictions on the same images; None: without them.

    Returns:
        Lines to print: the page, and the figures that could not be drawn.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _write_tables(folder, comparison, contrast)
    curves = _draw_and_save(folder / CURVES, "Curves", lambda: _draw_curves(comparison))
    bars = predictions = None
    if contrast:
        bars = _draw_and_save(folder / CLASSES, "IoU per class", lambda: _draw_class_differences(contrast))
    if draw_predictions:
        predictions = _draw_and_save(folder / PREDICTIONS, "Predictions on the same images", draw_predictions)
    title = f"Comparison of {', '.join(map(str, comparison.folders))}"
    pictures = [picture for picture in (curves, predictions) if picture]
    page = to_html(comparison, title=title, contrast=contrast, bars=bars, pictures=pictures)
    runs.write_text(folder / HTML, page)
    names = {CURVES: curves, CLASSES: bars, PREDICTIONS: predictions}
    for name in (name for name, picture in names.items() if not picture or not picture.image):
        (folder / name).unlink(missing_ok=True)
    missing = [f"{name} could not be drawn: {one.caption}" for name, one in names.items() if one and not one.image]
    return [str(folder / HTML), *missing]


def _write_tables(folder: Path, comparison: RunComparison, contrast: RowContrast | None) -> None:
    runs.write_text(folder / MARKDOWN, to_markdown(comparison, contrast))
    runs.write_text(folder / CSV, to_csv(comparison))


def _draw_and_save(path: Path, title: str, draw: Drawing) -> Picture:
    """Draw and save a figure; a failure becomes its caption, so that the other files are still written."""
    try:
        from fcn.visualization.png_files import save_png  # Matplotlib is slow to import

        image, caption = draw()
        save_png(image, path)
    except Exception as error:
        if errors.WANTS_TRACEBACK:
            raise
        return Picture(title, None, errors.explain(error))
    return Picture(title, image, caption)


def _draw_curves(comparison: RunComparison) -> tuple[Image.Image, str]:
    from fcn.visualization.group_curves import draw_group_curves

    groups = {group.title: [runs.read_metrics(run.path) for run in group.runs] for group in comparison.groups}
    if not any(rows for records in groups.values() for rows in records):
        raise ComparisonError("no run has completed an epoch")
    return draw_group_curves(groups, metric=comparison.metric), "measured at the end of every epoch during training"


def _draw_class_differences(contrast: RowContrast) -> tuple[Image.Image, str]:
    from fcn.visualization.class_differences import draw_class_differences

    if not len(contrast.classes):
        raise ComparisonError(contrast.source)
    difference = contrast.difference
    intervals = None if difference.problem else list(zip(difference.lows, difference.highs, strict=True))
    caption = f"{contrast.source}{'' if difference.problem else '; lines: 95 % bootstrap intervals over the images'}"
    differences = (contrast.ious[0] - contrast.ious[1]).tolist()
    image = draw_class_differences(contrast.classes, differences, names=contrast.names, intervals=intervals)
    return image, caption

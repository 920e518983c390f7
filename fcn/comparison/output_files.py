"""Files of a comparison: tables, figures and the HTML page in one folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rich.console import Group, RenderableType
from rich.text import Text

from fcn import errors, runs
from fcn.comparison import prediction_panels
from fcn.comparison.html_page import Picture, to_html
from fcn.comparison.run_comparison import RowContrast, RunComparison, compare_runs, default_contrast
from fcn.comparison.run_records import ComparisonError
from fcn.comparison.text_formats import to_csv, to_markdown, to_terminal

HTML, MARKDOWN, CSV = "comparison.html", "comparison.md", "comparison.csv"
CURVES, CLASSES, PREDICTIONS = "comparison.png", "class_differences.png", "predictions.png"
HEADINGS = {CURVES: "Curves", CLASSES: "Differences per class", PREDICTIONS: "Predictions on the same images"}

Drawing = Callable[[], Picture]


def summarize_sweep(folder: Path) -> RenderableType:
    """Compare the runs in a folder and write comparison.md, comparison.csv and comparison.png into it.

    Returns:
        Table and remarks for the terminal.

    Raises:
        ComparisonError: if there is no run below the folder.
    """
    comparison = compare_runs([folder])
    _write_tables(folder, comparison, default_contrast(comparison))
    _, missing = _draw_figures(folder, {CURVES: lambda: _draw_curves(comparison)})
    return Group(to_terminal(comparison), *map(Text, missing))


def write_comparison(
    folder: Path, comparison: RunComparison, contrast: RowContrast | None, *, num_panels: int
) -> list[str]:
    """Write tables, figures and the HTML page of a comparison into a folder, and replace those of an earlier one.

    Args:
        folder: created if necessary.
        comparison: the compared runs.
        contrast: two rows set side by side; without it there is no figure of differences per class.
        num_panels: number of images with the predictions of every row; 0: no such figure.

    Returns:
        Lines to print: the page, and the figures that could not be drawn.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _write_tables(folder, comparison, contrast)
    drawings: dict[str, Drawing] = {}
    if not comparison.of_evaluations:
        drawings[CURVES] = lambda: _draw_curves(comparison)
    if contrast:
        drawings[CLASSES] = lambda: _draw_class_differences(contrast)
    if num_panels and not comparison.of_evaluations:
        drawings[PREDICTIONS] = lambda: prediction_panels.draw_prediction_panels(comparison, num_panels)
    pictures, missing = _draw_figures(folder, drawings)
    page = to_html(comparison, contrast, {HEADINGS[name]: picture for name, picture in pictures.items()})
    runs.write_text(folder / HTML, page)
    return [str(folder / HTML), *missing]


def _write_tables(folder: Path, comparison: RunComparison, contrast: RowContrast | None) -> None:
    runs.write_text(folder / MARKDOWN, to_markdown(comparison, contrast))
    runs.write_text(folder / CSV, to_csv(comparison))


def _draw_figures(folder: Path, drawings: dict[str, Drawing]) -> tuple[dict[str, Picture], list[str]]:
    """Draw figures into files and delete those of an earlier comparison.

    Returns:
        The figures by file name, and a line for every one that could not be drawn; the others are still written.
    """
    from fcn.visualization.png_files import save_png

    pictures, missing = {}, []
    for name in HEADINGS:
        (folder / name).unlink(missing_ok=True)
    for name, draw in drawings.items():
        try:
            picture = draw()
            save_png(picture.image, folder / name)
        except Exception as error:
            if errors.WANTS_TRACEBACK:
                raise
            missing.append(f"{name} could not be drawn: {errors.explain(error)}")
        else:
            pictures[name] = picture
    return pictures, missing


def _draw_curves(comparison: RunComparison) -> Picture:
    from fcn.visualization.learning_curves import draw_group_curves  # Matplotlib is slow to import

    groups = {group.title: [runs.read_metrics(run.path) for run in group.runs] for group in comparison.groups}
    if not any(rows for records in groups.values() for rows in records):
        raise ComparisonError("no run has completed an epoch")
    image = draw_group_curves(groups, metric=comparison.metric)
    return Picture(image, "measured at the end of every epoch during training")


def _draw_class_differences(contrast: RowContrast) -> Picture:
    from fcn.visualization.class_differences import draw_class_differences

    if not len(contrast.classes):
        raise ComparisonError(contrast.source)
    differences, intervals = (contrast.ious[0] - contrast.ious[1]).tolist(), contrast.intervals
    ends = None if intervals is None else intervals.T.tolist()
    image = draw_class_differences(contrast.classes, differences, names=contrast.names, intervals=ends)
    meaning = "" if ends is None else "; lines: 95 % bootstrap intervals over the images"
    return Picture(image, f"{contrast.source}{meaning}")

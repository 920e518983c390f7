"""Compares runs: a table with seeds folded, intervals, curves, classes, and the same images side by side.

    python scripts/compare.py outputs/<name>
    python scripts/compare.py outputs/<name> --html comparison.html
    python scripts/compare.py <run> <another run>

Differences with intervals need scripts/evaluate.py to have scored the runs on the same images.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.progress import Progress

from fcn import errors, runs
from fcn.cli.argument_parser import Parser, run_script
from fcn.comparison import Comparison, ComparisonError, Contrast, compare, contrast
from fcn.comparison.comparison_files import class_bars, curves, pair_of
from fcn.comparison.html_page import Picture, page
from fcn.comparison.tables import csv_text, markdown, renderable

PANELS = 4
"""Images on a page or sheet, if not said otherwise."""

CURVES, CLASSES, IMAGES = "Curves", "IoU per class", "The same images"


def parser() -> argparse.ArgumentParser:
    description, _, examples = (__doc__ or "").partition("\n\n")
    found = Parser(description=description, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = found.add_argument
    add("folders", nargs="+", type=Path, metavar="FOLDER", help="run directories, or folders that hold some")
    add("--metric", default="val/mean_iou", metavar="NAME", help="sorts the rows; a name in summary.json")
    add("--baseline", metavar="ROW", help="row number or run directory to compare with; default: 1")
    add("--between", nargs=2, metavar=("A", "B"), help="rows or runs whose settings and classes are set side by side")
    add("--split", help="of the evaluations; default: the one that most runs have")
    add(
        "--ignore",
        nargs="+",
        default=[],
        metavar="KEY",
        help="what shall not tell rows apart: keys, or heads of columns",
    )
    add("--html", type=Path, metavar="FILE", help="one page with everything")
    add("--csv", type=Path, metavar="FILE", help="the table with all digits")
    add("--markdown", type=Path, metavar="FILE", help="the tables for a paper or an issue")
    add("--figure", type=Path, metavar="FILE", help="the curves, PNG")
    add("--class-figure", type=Path, metavar="FILE", help="the differences per class, PNG")
    add("--panel-figure", type=Path, metavar="FILE", help="the same images under every row's best run, PNG")
    add("--panels", type=int, default=PANELS, metavar="N", help=f"images on page and sheet; 0: none; default: {PANELS}")
    return found


def main() -> None:
    run_script(run, parser().parse_args())


def run(arguments: argparse.Namespace) -> None:
    """Compare, write what was asked for, print the table and the files.

    Raises:
        ComparisonError: if there is nothing to compare, or a file that was asked for could not be made. The others
            are made all the same.
    """
    if arguments.panels < 0:
        raise ComparisonError(f"--panels (={arguments.panels}) must not be negative; use 0 for none")
    options = {name: getattr(arguments, name) for name in ("metric", "baseline", "split", "ignore")}
    with Console(stderr=True).status("reading runs"):
        comparison = compare(arguments.folders, **options)
    between = pair_of(comparison)
    if arguments.between:
        between = contrast(comparison, *map(comparison.row, arguments.between))
    Console().print(renderable(comparison, between))
    if arguments.csv:
        _write(arguments.csv, csv_text(comparison))
    if arguments.markdown:
        _write(arguments.markdown, markdown(comparison, between))
    problems = _draw(arguments, comparison, between)
    if problems:
        raise ComparisonError("; ".join(problems))


def _draw(arguments: argparse.Namespace, comparison: Comparison, between: Contrast | None) -> list[str]:
    """Write pictures and page; why pictures that were asked for by name could not be made."""
    asked: list[tuple[Path | None, str, Callable[[], tuple[Image.Image, str]]]] = [
        (arguments.figure, CURVES, lambda: _curves(comparison)),
        (arguments.class_figure, CLASSES, lambda: _bars(between)),
        (arguments.panel_figure, IMAGES, lambda: _panels(comparison, arguments.panels)),
    ]
    pictures: dict[str, Picture] = {}
    problems = []
    for path, title, draw in asked:
        if path or arguments.html:
            pictures[title] = picture = _attempt(title, draw)
            if path and picture.image:
                from fcn.visualization.png_files import save_png  # brings Matplotlib, which has just drawn

                save_png(picture.image, path)
                print(path)
            elif path:
                problems.append(f"{path}: {picture.caption}")
    if arguments.html:
        others = [pictures[CURVES], *([pictures[IMAGES]] if arguments.panels else [])]
        title = f"Comparison of {', '.join(map(str, arguments.folders))}"
        _write(arguments.html, page(comparison, title=title, contrast=between, bars=pictures[CLASSES], pictures=others))
    return problems


def _attempt(title: str, draw: Callable[[], tuple[Image.Image, str]]) -> Picture:
    """A picture, or why there is none: a page without one is worth more than no page."""
    try:
        return Picture(title, *draw())
    except Exception as error:
        if errors.WANTS_TRACEBACK:
            raise
        return Picture(title, None, errors.explain(error))


def _curves(comparison: Comparison) -> tuple[Image.Image, str]:
    return curves(comparison), "over the epochs, as measured at their ends during training"


def _bars(between: Contrast | None) -> tuple[Image.Image, str]:
    if between is None:
        raise ComparisonError("differences per class need two rows; name them by --between A B")
    lines = "" if between.difference.problem else "; lines: bootstrap intervals, 95 %, over the images"
    return class_bars(between), f"{between.source}{lines}"


def _panels(comparison: Comparison, num_images: int) -> tuple[Image.Image, str]:
    from fcn.comparison.image_panels import panel_groups, panel_sheet  # brings torch in at once

    if not num_images:
        raise ComparisonError("--panels (=0) must be positive for a sheet of images; use 4")
    total = len(panel_groups(comparison))
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        bar = progress.add_task("predicting", total=total)
        return panel_sheet(comparison, num_images, advance=lambda: progress.advance(bar))


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    runs.write_text(path, text)
    print(path)

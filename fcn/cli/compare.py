"""Compare runs: a table averaged over seeds, differences with confidence intervals, curves, classes and predictions.

    python scripts/compare.py outputs/<name>
    python scripts/compare.py outputs/<name> --output comparison
    python scripts/compare.py <run> <another run>
    python scripts/compare.py --evaluations outputs/<name>

Confidence intervals require that scripts/evaluate.py has evaluated the runs on the same images.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console

from fcn.cli.argparse_entry import Parser, exceptions_as_error_lines, use_no_cursor_in_notebooks
from fcn.comparison.output_files import write_comparison
from fcn.comparison.run_comparison import METRIC, compare_runs, contrast_rows, default_contrast, find_row
from fcn.comparison.run_records import ComparisonError
from fcn.comparison.text_formats import to_terminal


def compare_parser() -> argparse.ArgumentParser:
    description, _, examples = (__doc__ or "").partition("\n\n")
    parser = Parser(description=description, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("folders", nargs="+", type=Path, metavar="FOLDER", help="run directories, or folders that hold some")
    add(
        "--evaluations",
        action="store_true",
        help="compare evaluations in place of runs; other settings, such as flip, and ensembles are other rows",
    )
    add(
        "--metric",
        default=METRIC,
        metavar="NAME",
        help="metric in summary.json that sorts the rows; default: %(default)s",
    )
    add("--baseline", metavar="ROW", help="row number or run directory to compare with; default: 1")
    add("--between", nargs=2, metavar=("A", "B"), help="rows or runs whose settings and classes are set side by side")
    add("--split", help="split of the evaluations; default: the one that most runs have")
    add("--ignore", nargs="+", default=[], metavar="KEY", help="keys or column headings that must not separate rows")
    add("--output", type=Path, metavar="DIR", help="write comparison.html, .md, .csv and figures into this folder")
    add("--panels", type=int, default=4, metavar="N",
        help="images with predictions of every row in the output; 0: none; default: %(default)s")  # fmt: skip
    return parser


def main() -> None:
    use_no_cursor_in_notebooks()
    with exceptions_as_error_lines():
        run_comparison(compare_parser().parse_args())


def run_comparison(arguments: argparse.Namespace) -> None:
    """Print the comparison, and write its files if an output folder is given.

    Raises:
        ComparisonError: if an argument is invalid or there is nothing to compare.
    """
    if arguments.panels < 0:
        raise ComparisonError(f"--panels (={arguments.panels}) must not be negative; use 0 for none")
    options = {name: getattr(arguments, name) for name in ("evaluations", "metric", "baseline", "split", "ignore")}
    with Console(stderr=True).status("reading runs"):
        comparison = compare_runs(arguments.folders, **options)
    contrast = default_contrast(comparison)
    if arguments.between:
        contrast = contrast_rows(comparison, *(find_row(comparison.groups, name) for name in arguments.between))
    Console().print(to_terminal(comparison, contrast))
    if arguments.output:
        print(*write_comparison(arguments.output, comparison, contrast, num_panels=arguments.panels), sep="\n")

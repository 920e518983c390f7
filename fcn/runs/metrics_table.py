"""metrics.csv: a row per epoch, or per round of `steps`, and a column per scalar."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fcn.config import Config
from fcn.runs.atomic_files import replacing

METRICS = "metrics.csv"


def read_metrics(run_dir: Path) -> list[dict[str, str]]:
    """Return the rows of metrics.csv, oldest first; cells are text, empty where nothing was measured."""
    path = run_dir / METRICS
    if not path.is_file():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_metrics(run_dir: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write metrics.csv with a column for every name that occurs, in order of first occurrence."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with replacing(run_dir / METRICS) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)


def progress(row: Mapping[str, str] | None, config: Config) -> tuple[int, int]:
    """Return the epochs at the end of a row and those of the run, or the steps if `steps` gives its length.

    Args:
        row: row of metrics.csv; None before the first one.
        config: configuration of the run.
    """
    if config.steps is not None:
        return int(row["step"]) if row else 0, config.steps
    return int(row["epoch"]) + 1 if row else 0, config.epochs or 0

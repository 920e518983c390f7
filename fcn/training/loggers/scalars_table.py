"""scalars.csv: every scalar of a run, one per row."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger

from fcn.runs.atomic_files import named_in_errors, replacing

SCALARS = "scalars.csv"
COLUMNS = ["step", "name", "value"]


class ScalarsTable(Logger):
    """Writer of scalars.csv with the columns step, name and value, since not every step has every scalar.

    In a resumed run, rows after its checkpoint are replaced. Values are written with all digits.

    Args:
        run_dir: run directory.
        step: number of optimiser steps already made.
    """

    def __init__(self, run_dir: Path, *, step: int) -> None:
        super().__init__()
        self._path = run_dir / SCALARS
        rows = [COLUMNS]
        if self._path.is_file():
            with open(self._path, newline="", encoding="utf-8") as file:
                # The last row of a killed execution may be incomplete.
                complete = [row for row in csv.reader(file) if len(row) == len(COLUMNS)][1:]
            rows += [row for row in complete if int(row[0]) <= step]
        with replacing(self._path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)
        self._file = open(self._path, "a", newline="", encoding="utf-8")  # noqa: SIM115  # until the end of the run

    @property
    def name(self) -> str:
        return "csv"

    @property
    def version(self) -> str:
        return ""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        with named_in_errors(self._path):
            csv.writer(self._file).writerows((step, name, repr(float(value))) for name, value in metrics.items())
            self._file.flush()  # before a checkpoint may follow

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: config.yaml holds the configuration."""

    def finalize(self, status: str) -> None:
        with named_in_errors(self._path):
            self._file.close()

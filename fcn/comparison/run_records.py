"""Finds the runs below folders and reads their configuration, status and metrics."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig, OmegaConf

from fcn import runs
from fcn.config import FOLD, Config, flatten, to_container
from fcn.errors import UserError
from fcn.runs import Status

BEST, SPEED = "best val/mean_iou", "images_per_second"
"""Names in `RunRecord.metrics` of values that are not among the metrics of summary.json."""

Fold = tuple[int, int, int]
"""Number of a fold, number of folds, and seed of their division."""


class ComparisonError(UserError):
    """Raised if runs are missing or cannot be compared."""


@dataclass(frozen=True)
class RunRecord:
    """Contents of a run directory.

    Attributes:
        path: the run directory.
        config: config.yaml by dotted key; a missing key has its default.
        state: status in summary.json; `Status.unfinished` without that file.
        metrics: final metrics of summary.json, `BEST` and `SPEED`; NaN for an undefined one.
    """

    path: Path
    config: Mapping[str, Any]
    state: Status
    metrics: Mapping[str, float]

    @property
    def finished(self) -> bool:
        return self.state is Status.finished

    @property
    def fold(self) -> Fold | None:
        """The fold that validated the run; None without folds."""
        number: int | None = self.config.get("data.fold")
        return None if number is None else (number, self.config["data.folds"], self.config["data.split_seed"])

    @property
    def validation_split(self) -> str:
        """Name of the split that validated the run."""
        return FOLD if self.fold else str(self.config["data.val_split"])


def describe_damage(error: Exception) -> str:
    """Return on one line why a file of a run cannot be read."""
    return " ".join(str(error).split()) or type(error).__name__


def read_runs(folders: Sequence[Path]) -> tuple[list[RunRecord], dict[Path, str]]:
    """Read every run at or below the folders, each once, sorted by path.

    Returns:
        The runs, and the reason for every directory that holds config.yaml but cannot be read as a run.

    Raises:
        ComparisonError: if a folder is missing, or none of them holds a readable run.
    """
    records: list[RunRecord] = []
    unreadable: dict[Path, str] = {}
    for path in find_runs(folders):
        try:
            records.append(_read_run(path))
        except Exception as error:  # YAML, JSON and OmegaConf raise many types
            unreadable[path] = describe_damage(error)
    if records:
        return records, unreadable
    for path, problem in unreadable.items():
        raise ComparisonError(f"{path} cannot be read as a run: {problem}")
    names = ", ".join(map(str, folders))
    raise ComparisonError(f"folders (={names}) must hold a run directory, with a {runs.CONFIG}; use outputs/<name>")


def find_runs(folders: Sequence[Path]) -> list[Path]:
    """Return the run directories at or below the folders, each once; symbolic links are followed.

    Raises:
        ComparisonError: if a folder is missing.
    """
    for folder in folders:
        if not folder.is_dir():
            raise ComparisonError(f"folder (={folder}) must be an existing directory; use outputs/<name>")
    visited: set[str] = set()
    return [path for folder in folders for path in _find_below(folder, visited)]


def _find_below(folder: Path, visited: set[str]) -> Iterator[Path]:
    """Yield the runs below a folder, except in directories already in `visited`, which it updates."""
    for place, subfolders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in visited:  # reached by another link, or by a link to a parent folder
            subfolders.clear()
            continue
        visited.add(real)
        if runs.CONFIG in files:
            subfolders.clear()  # runs are not nested
            yield Path(place)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))  # .hydra has a config.yaml too


@functools.cache
def _defaults() -> dict[str, Any]:
    """Return the default of every key except `name`, whose default is derived from other keys.

    A key that was added after a run was trained has the default that keeps the behaviour of that run.
    """
    return {key: value for key, value in flatten(to_container(Config())).items() if key != "name"}


def _read_run(path: Path) -> RunRecord:
    # Not validated against the schema: runs of other versions can be compared too.
    loaded = OmegaConf.load(path / runs.CONFIG)
    content = OmegaConf.to_container(loaded, resolve=True) if isinstance(loaded, DictConfig) else {}
    config = flatten(cast(dict[str, Any], content))
    if not {"seed", "data.name"} <= set(config):
        raise ComparisonError(f"{runs.CONFIG} must hold the keys of a run, including seed and data.name")
    config |= {key: value for key, value in _defaults().items() if key not in config}
    if not (path / runs.SUMMARY).is_file():
        return RunRecord(path, config, Status.unfinished, {})
    summary = runs.read_summary(path)
    best = summary.get("best", {}).get("val/mean_iou")
    metrics: dict[str, Any] = {**summary["metrics"], SPEED: summary.get(SPEED), BEST: best}
    numbers = {name: math.nan if value is None else float(value) for name, value in metrics.items()}
    return RunRecord(path, config, Status(summary["status"]), numbers)

"""Finds runs, or evaluations of runs, below folders, and reads their configuration, status and metrics."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
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

EVALUATED_SPLIT = "evaluation.split"
"""Key in `RunRecord.config` of the split of an evaluation."""

ROUNDING_ONLY = ("accelerator", "device", "batch_size")
"""Settings of an evaluation that change scores by no more than rounding."""

Fold = tuple[int, int, int]
"""Number of a fold, number of folds, and seed of their division."""


class ComparisonError(UserError):
    """Raised if runs are missing or cannot be compared."""


@dataclass(frozen=True)
class RunRecord:
    """Contents of a run directory, or of the folder of an evaluation.

    Attributes:
        path: the directory.
        config: config.yaml by dotted key; a missing key has its default. An evaluation has in addition its settings,
            such as `evaluation.flip`; that of several runs has the text `fcn16s,fcn8s` for a key that differs.
        state: status in summary.json; `Status.unfinished` without that file.
        metrics: final metrics of summary.json, `BEST` and `SPEED`, or scores of the evaluation; NaN for an undefined
            one.
        is_evaluation: whether the directory is that of an evaluation.
    """

    path: Path
    config: Mapping[str, Any]
    state: Status
    metrics: Mapping[str, float]
    is_evaluation: bool = False

    @property
    def finished(self) -> bool:
        return self.state is Status.finished

    @property
    def fold(self) -> Fold | None:
        """The fold that validated the run; None without folds, and for the evaluation of runs of several folds."""
        number, count, seed = (self.config.get(f"data.{key}") for key in ("fold", "folds", "split_seed"))
        if isinstance(number, int) and isinstance(count, int) and isinstance(seed, int):
            return number, count, seed
        return None

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
    rule = f"hold a run directory, with a {runs.CONFIG}; use outputs/<name>"
    return read_all(find_runs(folders), read_run, folders, what="a run", rule=rule)


def read_all(
    paths: Sequence[Path], read: Callable[[Path], RunRecord], folders: Sequence[Path], *, what: str, rule: str
) -> tuple[list[RunRecord], dict[Path, str]]:
    """Read the directories that are below the folders.

    Args:
        paths: the directories.
        read: function that reads one.
        folders: the folders, for the error message.
        what: name of what a directory holds, with its article.
        rule: what the folders must hold, and the remedy.

    Returns:
        The records, and the reason for every directory that cannot be read.

    Raises:
        ComparisonError: if none can be read.
    """
    records: list[RunRecord] = []
    unreadable: dict[Path, str] = {}
    for path in paths:
        try:
            records.append(read(path))
        except Exception as error:  # YAML, JSON and OmegaConf raise many types
            unreadable[path] = describe_damage(error)
    if records:
        return records, unreadable
    for path, problem in unreadable.items():
        raise ComparisonError(f"{path} cannot be read as {what}: {problem}")
    raise ComparisonError(f"folders (={', '.join(map(str, folders))}) must {rule}")


def find_runs(folders: Sequence[Path]) -> list[Path]:
    """Return the run directories at or below the folders, each once; symbolic links are followed.

    Raises:
        ComparisonError: if a folder is missing.
    """
    return find_directories(folders, runs.CONFIG)


def find_directories(folders: Sequence[Path], file: str) -> list[Path]:
    """Return the directories at or below the folders that hold a file, each once; no run is below another one.

    Raises:
        ComparisonError: if a folder is missing.
    """
    for folder in folders:
        if not folder.is_dir():
            raise ComparisonError(f"folder (={folder}) must be an existing directory; use outputs/<name>")
    visited: set[str] = set()
    return [path for folder in folders for path in _find_below(folder, file, visited)]


def _find_below(folder: Path, file: str, visited: set[str]) -> Iterator[Path]:
    """Yield the directories with a file below a folder, except those already in `visited`, which it updates."""
    for place, subfolders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in visited:  # reached by another link, or by a link to a parent folder
            subfolders.clear()
            continue
        visited.add(real)
        if file in files:
            yield Path(place)
            if file == runs.CONFIG:
                subfolders.clear()  # runs are not nested, evaluations may be
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))  # .hydra has a config.yaml too


@functools.cache
def _defaults() -> dict[str, Any]:
    """Return the default of every key except `name`, whose default is derived from other keys.

    A key that was added after a run was trained has the default that keeps the behaviour of that run.
    """
    return {key: value for key, value in flatten(to_container(Config())).items() if key != "name"}


def read_run(path: Path) -> RunRecord:
    """Read a run directory."""
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
    for name in ("layout", "precision"):
        if config[f"trainer.{name}"] == "fastest" and name in summary:  # the setting that was measured
            config[f"trainer.{name}"] = summary[name]
    best = summary.get("best", {}).get("val/mean_iou")
    metrics: dict[str, Any] = {**summary["metrics"], SPEED: summary.get(SPEED), BEST: best}
    numbers = {name: math.nan if value is None else float(value) for name, value in metrics.items()}
    return RunRecord(path, config, Status(summary["status"]), numbers)

"""The runs below some folders, and what their files say; a run that cannot be read is named, not an error."""

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
from fcn.config import Config, flatten, to_container
from fcn.errors import UserError
from fcn.runs import Status

BEST, SPEED = "best val/mean_iou", "images_per_second"
"""Names in `Run.metrics` of what summary.json has beside its metrics."""


class ComparisonError(UserError):
    """Runs that are not there, or cannot be compared as asked."""


@dataclass(frozen=True)
class Run:
    """A run directory as its files describe it.

    Attributes:
        path: of the directory, below the folder as it was given.
        config: of config.yaml, dotted keys; where it lacks one of the schema, its default.
        state: status of summary.json; `Status.unfinished` without one.
        metrics: final ones of summary.json, `BEST` and `SPEED`; what does not exist is NaN or absent.
    """

    path: Path
    config: Mapping[str, Any]
    state: Status
    metrics: Mapping[str, float]

    @property
    def finished(self) -> bool:
        return self.state is Status.finished


@dataclass(frozen=True)
class Broken:
    """A directory that holds config.yaml but cannot be read as a run, and why, in one line."""

    path: Path
    problem: str


def collect(folders: Sequence[Path]) -> tuple[list[Run], list[Broken]]:
    """Every run at or below the folders, each once, in the order of their paths.

    Raises:
        ComparisonError: if a folder is not there, or there is no run directory in any of them.
    """
    found: list[Run] = []
    broken: list[Broken] = []
    for path in find_runs(folders):
        try:
            found.append(_read(path))
        except Exception as error:  # of many kinds: the layers of YAML and JSON let theirs through
            broken.append(Broken(path, " ".join(str(error).split()) or type(error).__name__))
    if not found:
        named = ", ".join(map(str, folders))
        if broken:
            raise ComparisonError(f"{broken[0].path} cannot be read as a run: {broken[0].problem}")
        raise ComparisonError(f"folders (={named}) must hold a run directory, with a {runs.CONFIG}; use outputs/<name>")
    return found, broken


def find_runs(folders: Sequence[Path]) -> list[Path]:
    """Run directories at or below the folders, symbolic links followed, each once.

    Raises:
        ComparisonError: if a folder is not there.
    """
    seen: set[str] = set()
    for folder in folders:
        if not folder.is_dir():
            raise ComparisonError(f"folder (={folder}) must be a directory, which it is not; use outputs/<name>")
    return [path for folder in folders for path in _below(folder, seen)]


def _below(folder: Path, seen: set[str]) -> Iterator[Path]:
    """Runs below a folder but for real directories in `seen`, to which it adds those where it has been."""
    for place, subfolders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        if real in seen:  # by another link, or one that leads to a folder above itself
            subfolders.clear()
            continue
        seen.add(real)
        if runs.CONFIG in files:
            subfolders.clear()  # a run holds no other runs
            yield Path(place)
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))  # .hydra has a config.yaml too


@functools.cache
def _defaults() -> dict[str, Any]:
    """What a run of an older version did that lacks a key: it was added with a default that changes nothing.

    The name is left out, since it is made from others.
    """
    return {key: value for key, value in flatten(to_container(Config())).items() if key != "name"}


def _read(path: Path) -> Run:
    # Not by the schema: runs of other versions are compared all the same.
    loaded = OmegaConf.load(path / runs.CONFIG)
    content = OmegaConf.to_container(loaded, resolve=True) if isinstance(loaded, DictConfig) else {}
    config = flatten(cast(dict[str, Any], content))
    if not {"seed", "data.name"} <= set(config):
        raise ComparisonError(f"{runs.CONFIG} must hold the keys of a run, seed and data.name among them")
    config |= {key: value for key, value in _defaults().items() if key not in config}
    if not (path / runs.SUMMARY).is_file():
        return Run(path, config, Status.unfinished, {})
    summary = runs.read_summary(path)
    metrics: dict[str, Any] = {
        **summary["metrics"],
        SPEED: summary.get(SPEED),
        BEST: summary.get("best", {}).get("val/mean_iou"),
    }
    numbers = {str(name): math.nan if value is None else float(value) for name, value in metrics.items()}
    return Run(path, config, Status(summary["status"]), numbers)

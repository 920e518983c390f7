"""Runs that the key `run` of evaluate.py and predict.py names: one, or a list whose probabilities are averaged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fcn import runs
from fcn.comparison.run_records import find_runs
from fcn.config import ConfigError
from fcn.runs.run_lookup import LATEST, find_run


def chosen_runs(given: Any) -> str | list[str] | None:
    """Return the value of `run`, with folders of runs in a list replaced by their runs; a list of one run is that run.

    Raises:
        ConfigError: if it is neither text nor a list of text, or an empty list.
    """
    if given is None or isinstance(given, str):
        return given
    if not isinstance(given, list) or not given or any(isinstance(each, (list, dict)) or not each for each in given):
        raise ConfigError(
            f"run (={given}) must be a run directory, a checkpoint file, or a list of these; use "
            "run=outputs/<name>/<time>"
        )
    members = [member for each in given for member in _runs_of(str(each))]
    return members if len(members) > 1 else members[0]


def _runs_of(name: str) -> list[str]:
    path = Path(find_run("run", name, sweeps=True) if name == LATEST else name)
    return list(map(str, runs_below(path))) or [str(path)]


def runs_below(folder: Path) -> list[Path]:
    """Return the runs in a folder of runs; none for a run, a file or a missing folder."""
    return [] if not folder.is_dir() or (folder / runs.CONFIG).is_file() else find_runs([folder])

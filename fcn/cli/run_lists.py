"""Runs that the key `run` of evaluate.py and predict.py names: one, or a list whose probabilities are averaged."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fcn import runs
from fcn.comparison.run_records import find_runs
from fcn.config import ConfigError
from fcn.runs.run_lookup import LATEST, find_run


def _print_error(line: str) -> None:
    """Print a line on standard error."""
    print(line, file=sys.stderr)


def chosen_runs(given: Any, *, report: Callable[[str], object] = _print_error) -> str | list[str] | None:
    """Return the value of `run`, with folders of runs in a list replaced by their finished runs.

    Args:
        given: value of the key.
        report: receives a line for every run in a folder that is not finished, and therefore left out.

    Returns:
        Text, or a list of at least two texts; None for None.

    Raises:
        ConfigError: if it is neither text nor a list of text, or an empty list, or a run or checkpoint is named twice,
            or a folder has no finished run.
    """
    if given is None or isinstance(given, str):
        return given
    if not isinstance(given, list) or not given or any(isinstance(each, (list, dict)) or not each for each in given):
        raise ConfigError(
            f"run (={given}) must be a run directory, a checkpoint file, or a list of these; use "
            "run=outputs/<name>/<time>"
        )
    members = [member for each in given for member in _runs_of(str(each), report)]
    _check_different(given, members)
    return members if len(members) > 1 else members[0]


def _runs_of(name: str, report: Callable[[str], object]) -> list[str]:
    path = Path(find_run("run", name, sweeps=True) if name == LATEST else name)
    states = {run: runs.read_status(run) for run in runs_below(path)}
    finished = [run for run, state in states.items() if state is runs.Status.finished]
    if states and not finished:
        raise ConfigError(
            f"run (={name}) must have a finished run, but has {len(states)} unfinished ones; name the runs: "
            "run=[<run>,<run>]"
        )
    for run, state in states.items():
        if run not in finished:
            report(f"left out: {run} is {state}")
    return list(map(str, finished)) or [str(path)]


def _check_different(given: Sequence[Any], members: Sequence[str]) -> None:
    """Check that no checkpoint is named twice, which would double its weight in the average."""
    files = [(runs.checkpoint_of(Path(name)) or Path(name)).resolve() for name in members]
    for number, file in enumerate(files):
        if file in files[:number]:
            raise ConfigError(
                f"run (=[{','.join(map(str, given))}]) must name each run once, because all count equally, but "
                f"{members[number]} is there twice; leave it out once"
            )


def runs_below(folder: Path) -> list[Path]:
    """Return the runs in a folder of runs; none for a run, a file or a missing folder."""
    return [] if not folder.is_dir() or (folder / runs.CONFIG).is_file() else find_runs([folder])

"""The run that `resume`, `rerun` or `run` names: a run directory, a file in it, a folder above it, or `latest`."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from fcn.config import ConfigError
from fcn.runs.run_directory import BEST, CONFIG

LATEST = "latest"
OUTPUTS = Path("outputs")
SWEEP_FILES = ("sweep.json", "multirun.yaml")
"""Files of the folder of a sweep: of the launcher of this project, and of Hydra for any launcher."""
STUDY = "study.db"
"""File of the folder of a search, which its own command resumes."""


def find_run(key: str, given: str, *, sweeps: bool = False) -> str:
    """Return the run directory that the value of a key means.

    A checkpoint in a run means the run, and a folder that is no run means the newest run below it. `latest` means the
    newest below outputs/.

    Args:
        key: name of the key, for messages.
        given: value of the key.
        sweeps: whether the key may also name a sweep; otherwise a sweep is an error.

    Returns:
        The path of the run; `given` itself if there is no such folder.

    Raises:
        ConfigError: if there is no run below outputs/, or the newest is a sweep although `sweeps` is false.
    """
    folder = Path(given)
    if given == LATEST and not folder.exists():
        folder = OUTPUTS
    elif folder.suffix == ".ckpt" and key != "run":
        return _run_of_checkpoint(key, folder)
    elif not folder.is_dir():
        return given
    newest = max(_runs_and_sweeps(folder), key=lambda path: _changed(path).stat().st_mtime_ns, default=None)
    if newest is None:
        if given == LATEST:
            raise ConfigError(f"{key} (={LATEST}) must have a run below {OUTPUTS}/, but there is none; name its folder")
        return given
    if not sweeps and not (newest / CONFIG).is_file():
        raise ConfigError(
            f"{key} (={given}) must be one run, but {newest} is a sweep; use the folder of one of its jobs"
        )
    if newest != folder:
        print(f"{key:<8} {newest}, the newest below {folder}", file=sys.stderr)
    return str(newest)


def _run_of_checkpoint(key: str, checkpoint: Path) -> str:
    run = checkpoint.absolute().parent.parent
    if not (run / CONFIG).is_file():
        return str(checkpoint)
    if key == "resume" and checkpoint.name == Path(BEST).name:
        raise ConfigError(
            f"resume (={checkpoint}) must be a run, which continues from its last checkpoint; use the folder of the "
            "run, or model.init_from=... for a new run from these weights"
        )
    return os.path.relpath(run) if not checkpoint.is_absolute() else str(run)


def _runs_and_sweeps(folder: Path) -> Iterator[Path]:
    """Yield runs and sweeps in a folder, or the folder itself; no jobs of a sweep, and no trials of a search."""
    for name, folders, files in os.walk(folder):
        if STUDY in files:
            folders.clear()
        elif CONFIG in files or not set(SWEEP_FILES).isdisjoint(files):
            folders.clear()
            yield Path(name)


def _changed(path: Path) -> Path:
    """Return the file whose time says when a run or sweep was created."""
    return next(path / name for name in (CONFIG, *SWEEP_FILES) if (path / name).is_file())

"""Names of a run and of its sweep outside its directory, for services that list runs."""

from __future__ import annotations

from pathlib import Path

from fcn.config import Config

MULTIRUN = "multirun.yaml"
"""File that Hydra writes into the folder of a sweep."""


def sweep_name(config: Config, run_dir: Path) -> str | None:
    """Return the name of the sweep or search of a job, such as "shapes/2026-01-31_12-00-00"; None for a single run."""
    folder = run_dir.absolute().parent
    own = Path(config.name).parts
    is_job = folder.parent.parts[-len(own) :] == own  # <name>/<sweep>/<job>
    return f"{config.name}/{folder.name}" if is_job or (folder / MULTIRUN).is_file() else None


def run_name(config: Config, run_dir: Path) -> str:
    """Return the name of a run: that of its directory, which for a job says what varies, after that of its folder."""
    return f"{sweep_name(config, run_dir) or config.name}/{run_dir.absolute().name}"

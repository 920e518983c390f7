"""loggers.json: the ids of a run in the services of its loggers, so that a resumed run continues there."""

from __future__ import annotations

import json
from pathlib import Path

from fcn.runs.atomic_files import write_text

LOGGER_IDS = "loggers.json"


def read_logger_id(run_dir: Path, logger: str) -> str | None:
    """Return the id under which a logger knows the run; None if it does not know it yet.

    Raises:
        ValueError: if the file is not JSON.
    """
    return _read(run_dir).get(logger)


def save_logger_id(run_dir: Path, logger: str, identifier: str) -> None:
    """Save the id under which a logger knows the run."""
    ids = {**_read(run_dir), logger: identifier}
    write_text(run_dir / LOGGER_IDS, json.dumps(ids, indent=2) + "\n")


def _read(run_dir: Path) -> dict[str, str]:
    path = run_dir / LOGGER_IDS
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}

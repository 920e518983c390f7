"""The reason for which a job failed: written by its process, read by the sweep or search that started it."""

from __future__ import annotations

import contextlib
import signal
from pathlib import Path

from fcn import runs

FAILURE = "failure.txt"
"""File in the run directory of a job whose latest execution failed."""


def record_failure(run_dir: Path, reason: str) -> None:
    """Write the reason into the run directory, unless the disk is the reason."""
    with contextlib.suppress(OSError):
        runs.write_text(run_dir / FAILURE, reason + "\n")


def clear_failure(run_dir: Path) -> None:
    """Remove the reason of an earlier execution."""
    (run_dir / FAILURE).unlink(missing_ok=True)


def failure_reason(run_dir: Path, exit_status: int) -> str:
    """Return why a process failed: the reason it recorded, or its exit status and the last lines of its output."""
    if (run_dir / FAILURE).is_file():
        return (run_dir / FAILURE).read_text(encoding="utf-8").strip()
    end = f"killed by {signal.Signals(-exit_status).name}" if exit_status < 0 else f"exit status {exit_status}"
    output = (run_dir / runs.CONSOLE).read_text(encoding="utf-8", errors="replace")
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return "\n".join([end, *lines[-3:]])

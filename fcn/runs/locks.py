"""Locks of folders: one process at a time executes a run, a sweep or a search."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from fcn.config import ConfigError
from fcn.runs.atomic_files import named_in_errors


class FolderLocked(ConfigError):
    """Raised if another process holds the lock of a folder."""


LOCK = ".lock"
PATIENCE = 60
"""Seconds to wait for another process that executes a run, because it may be saving a checkpoint after a signal."""


@contextlib.contextmanager
def locked(folder: Path, *, patience: float | None = None, name: str = LOCK) -> Iterator[None]:
    """Hold the lock of a folder. The system releases it when the process ends, even by SIGKILL.

    Args:
        folder: folder of the run, sweep or search.
        patience: seconds to wait for another process; None: `PATIENCE`.
        name: name of the lock file.

    Raises:
        FolderLocked: if another process still holds the lock.
    """
    with open(folder / name, "a+", encoding="utf-8") as file:
        end = time.monotonic() + (PATIENCE if patience is None else patience)
        while not _try_lock(file.fileno()):
            if time.monotonic() > end:
                file.seek(0)
                holder = file.read() or "another process"
                raise FolderLocked(f"{folder} is being executed by {holder}; wait for it to end, or stop it")
            time.sleep(0.1)
        with named_in_errors(folder / name):
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), this_process().encode())
        yield


def is_locked(folder: Path, *, name: str = LOCK) -> bool | None:
    """Return whether a process holds the lock of a folder; None if the file system has no locks."""
    with open(folder / name, "a", encoding="utf-8") as file:  # closing it releases the lock
        try:
            return not _try_flock(file.fileno())
        except OSError:
            return None


def this_process() -> str:
    """Return the text with which the lock file of a folder names this process."""
    return f"process {os.getpid()}{machine_suffix()}"


def machine_suffix() -> str:
    """Return the end of `this_process`, which names this machine."""
    return f" on {os.uname().nodename}"


def _try_lock(descriptor: int) -> bool:
    try:
        return _try_flock(descriptor)
    except OSError:
        return True  # the file system has no locks


def _try_flock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True

"""Locks of a search: for choosing a trial, and for executing one, by processes on one machine or on several.

The system releases `runs.locked` when a process ends, but some shared file systems apply it to one machine only.
Between machines, a process that chooses a trial therefore creates a file exclusively, and a process that executes a
trial regularly updates the time of a file.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from pathlib import Path

from optuna.storages.journal import JournalFileOpenLock

from fcn import runs
from fcn.execution.search_plan import SearchPlan
from fcn.runs.locks import is_locked, machine_suffix, this_process

CHOICE_LOCK, RESULTS_LOCK = ".choice", ".results"
OWNER_LOCK = ".driver"
GRACE_SECONDS = {CHOICE_LOCK: 60, RESULTS_LOCK: 600}
"""Age at which the file of another machine is ignored; usually a trial is chosen within a second, and results are
written within a minute."""
PATIENCE = 300
"""Seconds to wait for other processes on this machine; above the age for choosing a trial."""
HEARTBEAT_SECONDS = 15
STALE_SECONDS = 120
"""Age of the last heartbeat at which a process on another machine has ended. NFS servers keep the locks of a crashed
machine for about 90 s, and a killed process needs time to end its run."""


@contextlib.contextmanager
def search_lock(plan: SearchPlan, *, name: str = CHOICE_LOCK) -> Iterator[None]:
    """Hold a lock of a search: while a trial is chosen or its end is reported, or while results are written.

    Raises:
        FolderLocked: if other processes on this machine hold it for `PATIENCE`.
    """
    with runs.locked(plan.folder, patience=PATIENCE, name=runs.LOCK if name == CHOICE_LOCK else f"{name}-lock"):
        if plan.storage is None:
            yield
            return
        # Not JournalFileSymlinkLock: its grace period requires that all machines see the folder under the same path.
        lock = JournalFileOpenLock(str(plan.folder / name), grace_period=GRACE_SECONDS[name])
        lock.acquire()
        path = plan.folder / f"{name}.lock"
        own = _identity(path)
        try:
            yield
        finally:
            # Otherwise another machine has ignored the lock, for example after a pause, and may hold its own now.
            if own is not None and _identity(path) == own:
                with contextlib.suppress(RuntimeError):
                    lock.release()


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what distinguishes a file from a later one of the same name; None if there is no file."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns


@contextlib.contextmanager
def trial_lock(run_dir: Path) -> Iterator[None]:
    """Hold the lock of the run directory of a trial, while this process executes it.

    Raises:
        FolderLocked: if another process holds it.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    path, ended = run_dir / OWNER_LOCK, threading.Event()

    def beat() -> None:
        while not ended.wait(HEARTBEAT_SECONDS):
            with contextlib.suppress(OSError):  # an unavailable file server
                os.utime(path)

    with runs.locked(run_dir, name=OWNER_LOCK, patience=0):
        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
            if owns_trial(run_dir):
                os.truncate(path, 0)  # other machines need not wait for the heartbeat to become stale


def owns_trial(run_dir: Path) -> bool:
    """Return whether this process was the last to lock the run directory of a trial.

    It is not after a pause of more than `STALE_SECONDS`, if another machine has then resumed the trial.
    """
    path = run_dir / OWNER_LOCK
    return path.is_file() and path.read_text(encoding="utf-8") == this_process()


def is_abandoned(run_dir: Path) -> bool:
    """Return whether the process that executed a trial has ended; the caller holds `search_lock`."""
    path = run_dir / OWNER_LOCK
    if not path.exists():
        return True
    locked = is_locked(run_dir, name=OWNER_LOCK)
    if locked:
        return False
    owner = path.read_text(encoding="utf-8")
    if not owner or (owner.endswith(machine_suffix()) and locked is not None):
        return True
    now = run_dir.parent / runs.LOCK
    os.utime(now)  # the clock of the file server, which may differ from the clock of this machine
    return now.stat().st_mtime - path.stat().st_mtime > STALE_SECONDS

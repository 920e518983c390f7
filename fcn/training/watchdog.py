"""Watchdog of a run of several processes: ends it if no rank makes progress, and names the stalled ranks.

Ranks wait for each other in every step, so one stalled rank stops all ranks. A thread in every rank publishes the
progress of its rank in a store of torch.distributed and reads that of the others. When no rank has made progress for
the timeout, every thread reaches the same result and ends its process. The main thread only increments counters.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

from fcn.config.overrides import for_shell

CHECKS_PER_TIMEOUT = 10
MAX_CHECK_SECONDS = 30.0

WAITING = "waiting for other ranks"
LOADING = "loading data"
TRAINING = "computing a training step"
VALIDATING = "validating"
RECORDING = "recording the epoch"
SAVING = "writing a checkpoint"


class RankStalled(Exception):
    """Raised if no rank makes progress; the message names the ranks for which the others wait."""


class Watchdog(Checkpoint):
    """Ends a stalled run of several processes. It must be the last callback, see `activity`.

    Lightning calls subclasses of `Checkpoint` after all other callbacks.

    Time during which this process itself is stopped, for example by a cluster that suspends jobs, does not count.

    Args:
        minutes: minutes without progress of any rank after which the run is ended; None: no limit.
        run_dir: run directory, named in messages.

    Attributes:
        activity: what this rank is doing, for messages. Hooks of the last callback run after those of the others, so
            recording and saving have ended when it enters the next activity.
        position: number of steps made, and 1 if the data of the next step are loaded, else 0.
        moves: number of hooks called, which shows progress.
    """

    def __init__(self, minutes: float | None, run_dir: Path) -> None:
        self.timeout = None if minutes is None else 60 * minutes
        self.run_dir = run_dir
        self.activity = LOADING
        self.position = (0, 0)
        self.moves = 0
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.position = (trainer.global_step, 0)

    # Before any callback's `on_train_start`, in which a rank may stall too.
    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.world_size == 1 or self.timeout is None:
            return
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        # A connection of its own: while the main thread waits, it may hold that of the process group.
        store = TCPStore(host, port, is_master=False, timeout=timedelta(seconds=max(60, self.timeout)))
        keys = [f"fcn/watchdog/{rank}" for rank in range(trainer.world_size)]
        # Published here, since a rank that stalls before its thread publishes for the first time would not be noticed.
        store.set(keys[trainer.global_rank], json.dumps(self._progress(0)))
        arguments = (store, keys, trainer.global_rank, self.timeout)
        self._thread = threading.Thread(target=self._watch, args=arguments, daemon=True)
        self._thread.start()

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        self._move(TRAINING, (trainer.global_step, 1))

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        self._move(RECORDING if trainer.is_last_batch else LOADING, (trainer.global_step, 0))

    def on_validation_start(self, *args: Any) -> None:
        self._move(VALIDATING)

    def on_validation_batch_start(self, *args: Any) -> None:
        self._move(VALIDATING)

    def on_validation_end(self, *args: Any) -> None:
        self._move(RECORDING)

    def on_save_checkpoint(self, *args: Any) -> None:
        self._move(SAVING)

    def on_train_epoch_end(self, *args: Any) -> None:
        self._move(LOADING)

    def on_exception(self, *args: Any) -> None:
        self._stop()

    def on_train_end(self, *args: Any) -> None:
        self._stop()

    def _move(self, activity: str, position: tuple[int, int] | None = None) -> None:
        self.moves += 1
        self.activity = activity
        self.position = position or self.position

    def _stop(self) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join(timeout=1)

    def _watch(self, store: Store, keys: list[str], rank: int, timeout: float) -> None:
        """Check the progress of all ranks until training ends; end this process if no rank makes progress."""
        pause = min(timeout / CHECKS_PER_TIMEOUT, MAX_CHECK_SECONDS)
        idle_seconds, check, previous_time = 0.0, 0, time.monotonic()
        previous_moves: list[int] = []
        latest = [(-1, 0)] * len(keys)  # last check published by each rank, and our check at which it was read first
        while not self._ended.wait(pause):
            now = time.monotonic()
            idle_seconds += min(now - previous_time, 2 * pause)
            previous_time, check = now, check + 1
            try:
                store.set(keys[rank], json.dumps(self._progress(check)))
                if not store.check(keys):
                    continue  # a rank has not started yet
                progress = [json.loads(store.get(key)) for key in keys]
            except RuntimeError:
                return  # the process that holds the store has ended, as at the end of a run
            moves = [each["moves"] for each in progress]
            if moves != previous_moves:
                idle_seconds, previous_moves = 0.0, moves
            latest = [
                old if old[0] == each["check"] else (each["check"], check)
                for old, each in zip(latest, progress, strict=True)
            ]
            if idle_seconds >= timeout and not self._ended.is_set():
                silent = [number for number, (_, at) in enumerate(latest) if check - at > CHECKS_PER_TIMEOUT // 2]
                self._end_process(progress, silent, timeout)

    def _progress(self, check: int) -> dict[str, Any]:
        activity = describe_activity(self.activity)
        return {
            "check": check, "moves": self.moves, "position": self.position, "activity": activity, "pid": os.getpid()
        }  # fmt: skip

    def _end_process(self, progress: Sequence[dict[str, Any]], silent: Sequence[int], timeout: float) -> None:
        """End this process, its loader processes, and stopped ranks, which torchrun's SIGTERM would not end."""
        remedy = f"then continue with {for_shell('resume', self.run_dir)}"
        line = f"{describe_stalled_ranks(progress, silent, timeout)}; {remedy}"
        try:
            get_error_handler().record_exception(RankStalled(line))  # torchrun and our command read it there
            for child in multiprocessing.active_children():
                child.kill()
            for number in silent:
                if _is_sibling(pid := progress[number]["pid"]):
                    os.kill(pid, signal.SIGKILL)
        finally:
            os._exit(1)  # the main thread is blocked


def describe_activity(activity: str) -> str:
    """Return `WAITING` if the main thread is inside torch.distributed, else the activity and the line of code."""
    frame = sys._current_frames()[threading.main_thread().ident or 0]
    if frame.f_globals.get("__name__", "").startswith("torch.distributed"):
        return WAITING
    return f"{activity} ({Path(frame.f_code.co_filename).name}, line {frame.f_lineno})"


def describe_stalled_ranks(progress: Sequence[dict[str, Any]], silent: Sequence[int], timeout: float) -> str:
    """Return one line that names the ranks for which the others wait.

    Args:
        progress: `position` and `activity` of every rank.
        silent: ranks that no longer publish their progress.
        timeout: seconds without progress.
    """
    minutes = f"{timeout / 60:g} minutes"
    remedy = f"raise trainer.timeout_minutes (={timeout / 60:g}) if they were only slow"
    busy = [rank for rank, each in enumerate(progress) if each["activity"] != WAITING]
    last = min((tuple(progress[rank]["position"]) for rank in busy), default=None)
    stalled = silent or [rank for rank in busy if tuple(progress[rank]["position"]) == last]
    if not stalled:
        return f"all ranks have waited for each other for {minutes}: check the network between them; {remedy}"
    ranks = f"rank{'s' * (len(stalled) > 1)} {', '.join(map(str, stalled))}"
    step = progress[stalled[0]]["position"][0] + 1
    if silent:
        cause = "the process is stopped or its machine does not respond"
    else:
        cause = (
            f"{'; '.join(sorted({progress[rank]['activity'] for rank in stalled}))}: check disk, file server and GPU"
        )
    return f"{ranks} stalled at step {step} for {minutes} while the others waited, {cause}; {remedy}"


def _is_sibling(pid: int) -> bool:
    """Whether a process on this machine has the same parent as this one."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1] == str(os.getppid())
    except OSError:
        return False

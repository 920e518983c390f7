"""A run of several processes that hangs: it ends, and says which process did not come along.

Processes wait for each other at every step, so that one that hangs holds up all. In each a thread publishes where the
process stands in the store through which they found each other, and looks at the others. Once nobody has moved for the
timeout, every process comes to the same conclusion and ends. Between two looks the cost of it is that of counting.
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
from types import FrameType
from typing import Any

import pytorch_lightning as pl
from torch.distributed import Store, TCPStore  # type: ignore[attr-defined]
from torch.distributed.elastic.multiprocessing.errors import get_error_handler

LOOKS = 10
"""In the time of a timeout."""
LONGEST = 30.0
"""Seconds between two looks."""

WAITING = "waiting for the others"
DOING = (
    ("fcn/runs/checkpoints.py", "writing a checkpoint"),
    ("fcn/training/recording.py", "recording an epoch"),
    ("torch/utils/data/", "loading data"),
    ("loops/evaluation_loop.py", "validating"),
    ("torch/autograd/", "computing gradients, or waiting for those of others"),
)
"""What a process does, by part of the path of a file that its main thread is in; the first that fits."""


class RankHangs(Exception):
    """No process of a run moves any more: which one holds up the others."""


class Watch(pl.Callback):
    """Watches the processes of a run from its first step to its last; see above. Has no part in a run of one process.

    Time in which this process is itself stopped, as by a cluster that suspends jobs, does not count.

    Args:
        minutes: without any process's progress until the run is ended; None: for ever.
        run_dir: of the run, for messages.
    """

    def __init__(self, minutes: float | None, run_dir: Path) -> None:
        self.timeout = None if minutes is None else 60 * minutes
        self.run_dir = run_dir
        self.moves = 0
        self.position = (0, 0)
        """Steps made, and whether the data of the next one are there."""
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.world_size == 1 or self.timeout is None:
            return
        self.position = (trainer.global_step, 0)
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        # A connection of its own: the main thread may hold that of the process group while it waits.
        store = TCPStore(host, port, is_master=False, timeout=timedelta(seconds=max(60, self.timeout)))
        names = [f"fcn/watch/{rank}" for rank in range(trainer.world_size)]
        arguments = (store, names, trainer.global_rank, self.timeout)
        self._thread = threading.Thread(target=self._watch, args=arguments, daemon=True)
        self._thread.start()

    def on_train_batch_start(self, trainer: pl.Trainer, *args: Any) -> None:
        self._move((trainer.global_step, 1))

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        self._move((trainer.global_step, 0))

    def on_validation_batch_start(self, *args: Any) -> None:
        self._move(self.position)

    def on_train_epoch_end(self, *args: Any) -> None:
        self._move(self.position)

    def on_save_checkpoint(self, *args: Any) -> None:
        self._move(self.position)

    def _move(self, position: tuple[int, int]) -> None:
        self.moves += 1
        self.position = position

    def on_exception(self, *args: Any) -> None:
        self._stop()

    def on_train_end(self, *args: Any) -> None:
        self._stop()

    def _stop(self) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join(timeout=1)  # it is at the store for a moment at most

    def _watch(self, store: Store, names: list[str], rank: int, timeout: float) -> None:
        pause = min(timeout / LOOKS, LONGEST)
        idle, beat, before = 0.0, 0, time.monotonic()
        moves: list[int] = []
        heard = [(-1, 0)] * len(names)  # newest beat of each process, and the beat of ours at which it came
        while not self._over.wait(pause):
            now = time.monotonic()
            idle, beat, before = idle + min(now - before, 2 * pause), beat + 1, now
            try:
                store.set(names[rank], json.dumps(self._standing(beat)))
                if not store.check(names):
                    continue  # somebody has not begun
                found = [json.loads(store.get(name)) for name in names]
            except RuntimeError:
                return  # the store has gone with its process, as at the end of a run
            counts = [each["moves"] for each in found]
            if counts != moves:
                idle, moves = 0.0, counts
            heard = [
                old if old[0] == each["beat"] else (each["beat"], beat) for old, each in zip(heard, found, strict=True)
            ]
            if idle >= timeout and not self._over.is_set():
                silent = [number for number, (_, at) in enumerate(heard) if beat - at > LOOKS // 2]
                self._end(found, silent, timeout)

    def _standing(self, beat: int) -> dict[str, Any]:
        main = threading.main_thread().ident or 0
        doing = what_is_done(sys._current_frames()[main])
        return {"beat": beat, "moves": self.moves, "at": self.position, "doing": doing, "pid": os.getpid()}

    def _end(self, found: Sequence[dict[str, Any]], silent: Sequence[int], timeout: float) -> None:
        """End this process, its loader processes, and those that are stopped and would not see the agent's signal."""
        line = f"{who_hangs(found, silent, timeout)}; then resume={self.run_dir} goes on"
        try:
            get_error_handler().record_exception(RankHangs(line))  # where the agent that started us finds it
            for child in multiprocessing.active_children():
                child.kill()
            for number in silent:
                if _is_sibling(pid := found[number]["pid"]):
                    os.kill(pid, signal.SIGKILL)
        finally:
            os._exit(1)  # the main thread cannot be asked


def what_is_done(frame: FrameType | None) -> str:
    """What a thread does whose innermost frame this is, and where it stands in the code."""
    assert frame is not None
    where = f"{Path(frame.f_code.co_filename).name}, line {frame.f_lineno}"
    if "torch/distributed/" in frame.f_code.co_filename:
        return WAITING
    files = []
    while frame is not None:
        files.append(frame.f_code.co_filename)
        frame = frame.f_back
    words = (words for part, words in DOING if any(part in file for file in files))
    return f"{next(words, 'computing')} ({where})"


def who_hangs(found: Sequence[dict[str, Any]], silent: Sequence[int], timeout: float) -> str:
    """One line that names the processes for which the others wait.

    Args:
        found: of every process the position `at` (steps made, whether the next one's data are there), and `doing`.
        silent: those that have not been heard of.
        timeout: seconds without progress.
    """
    minutes = f"{timeout / 60:g} minutes"
    remedy = f"raise trainer.timeout_minutes (={timeout / 60:g}) if they were only slow"
    busy = [number for number, each in enumerate(found) if each["doing"] != WAITING]
    last = min((tuple(found[number]["at"]) for number in busy), default=None)
    held = silent or [number for number in busy if tuple(found[number]["at"]) == last]
    if not held:
        return f"all ranks have waited for each other for {minutes}: see whether the network is up; {remedy}"
    who = f"rank{'s' * (len(held) > 1)} {', '.join(map(str, held))}"
    if silent:
        what = "its process is stopped, or its machine does not answer"
    else:
        what = "; ".join(sorted({found[number]["doing"] for number in held}))
    step = found[held[0]]["at"][0] + 1
    cause = "" if silent else ": see whether disk, file server and GPU answer"
    return f"{who} hung at step {step} for {minutes}, all others waiting ({what}){cause}; {remedy}"


def _is_sibling(pid: int) -> bool:
    """Whether a process of this machine was started by the one that started this one."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1] == str(os.getppid())
    except OSError:
        return False

"""Run directories executed side by side, each in processes of its own: the slots of a sweep or of a search."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fcn import runs
from fcn.execution import processes
from fcn.runs import Status
from fcn.runs.stop_signals import SignalNotes

POLL_SECONDS = 0.1


@dataclass(eq=False)
class Job:
    """A run directory and, while it is executed, the process that does it.

    Attributes:
        run_dir: holds the configuration; what the process prints goes to its console.log.
        overrides: as typed, for people.
        state: what became of it.
        reason: of a failure, one line or, where the process said nothing, how it ended and its last lines.
        started: time of the latest start, seconds since the epoch; None before.
        ended: of the latest end.
    """

    run_dir: Path
    overrides: list[str] = field(default_factory=list)
    state: Status = Status.queued
    reason: str = ""
    started: float | None = None
    ended: float | None = None
    _process: subprocess.Popen[bytes] | None = None
    _killed: bool = False

    def command(self) -> list[str]:
        """What executes it."""
        return [sys.executable, "-m", "fcn.worker", str(self.run_dir)]

    def start(self, environment: Mapping[str, str]) -> None:
        """Start executing it, with `environment` on top of this process's."""
        with open(self.run_dir / runs.CONSOLE, "ab") as console:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment, **processes.child_environment()},
                start_new_session=True,  # Ctrl-C reaches us alone; we pass it on
            )
        self.state, self.reason, self.started, self.ended = Status.running, "", time.time(), None

    def poll(self) -> bool:
        """Whether its process has ended; sets `state`, `reason` and `ended` when it has."""
        assert self._process is not None
        status = self._process.poll()
        if status is None:
            return False
        self.ended = time.time()
        self.state = self._outcome(status)
        if self.state is Status.failed:
            self.reason = self._last_words(status)
        return True

    def stop(self) -> None:
        """Ask it to stop after the current step, with a checkpoint from which it goes on."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """End its process at once; it goes on from its last checkpoint."""
        self._killed = True
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self._process is not None and self._process.poll() is None:
            # The whole group when it is to die: loader processes cannot look after themselves.
            send = os.killpg if number == signal.SIGKILL else os.kill
            send(self._process.pid, number)

    def _outcome(self, status: int) -> Status:
        if status == 0 and runs.read_status(self.run_dir) is Status.finished:
            return Status.finished
        stopped = self._killed or any(status in (128 + number, -number) for number in runs.STOP_SIGNALS)
        return Status.interrupted if stopped else Status.failed

    def _last_words(self, status: int) -> str:
        console = (self.run_dir / runs.CONSOLE).read_text(encoding="utf-8", errors="replace")
        lines = [line.strip() for line in console.splitlines() if line.strip()]
        # Not always the last line: what was printed before may wait in a buffer until the interpreter ends.
        if error := next((line for line in reversed(lines) if line.startswith("error: ")), None):
            return error.removeprefix("error: ")
        how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
        return "\n".join([how, *lines[-3:]])


def run_jobs(jobs: Iterable[Job], slots: Sequence[Mapping[str, str]], *, watch: Callable[[Job], None]) -> int:
    """Execute jobs, as many at a time as there are slots; a job that fails is no concern of the others.

    The first of `runs.STOP_SIGNALS` stops all jobs, each with a checkpoint; the second kills them.

    Args:
        jobs: drawn one by one, when a slot is free.
        slots: environment variables of each slot.
        watch: called with a job when it has started, at every look while it runs, and once when it has ended.

    Returns:
        The signal that ended the execution; 0 if all jobs were drawn and ended.
    """
    remaining, free, running = iter(jobs), list(range(len(slots)))[::-1], dict[int, Job]()
    passed_on = 0
    with SignalNotes() as signals:
        received = signals.received
        try:
            while True:
                while free and not received and (job := next(remaining, None)) is not None:
                    job.start(slots[slot := free.pop()])
                    running[slot] = job
                    watch(job)
                if not running:
                    return received[0] if received else 0
                time.sleep(POLL_SECONDS)
                if len(received) > passed_on:
                    passed_on = len(received)
                    for job in running.values():
                        job.stop() if passed_on == 1 else job.kill()
                for slot, job in list(running.items()):
                    if job.poll():
                        del running[slot]
                        free.append(slot)
                    watch(job)
        finally:
            for job in running.values():  # none, unless an exception comes from `jobs` or `watch`
                job.stop()

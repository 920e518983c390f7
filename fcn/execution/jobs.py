"""Jobs of a sweep or search: run directories executed concurrently, each in a process of its own."""

from __future__ import annotations

import contextlib
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
    """A run directory and the process that executes it.

    Attributes:
        run_dir: directory with the configuration; the output of the process is appended to its console.log.
        overrides: overrides that distinguish the job, for display.
        state: status of the job; `Status.queued` before the first start.
        reason: reason of a failure.
    """

    run_dir: Path
    overrides: list[str] = field(default_factory=list)
    state: Status = Status.queued
    reason: str = ""
    _process: subprocess.Popen[bytes] | None = None
    _killed: bool = False

    def command(self) -> list[str]:
        """Return the command that executes the run directory."""
        return [sys.executable, "-m", "fcn.worker", str(self.run_dir)]

    def start(self, environment: Mapping[str, str]) -> None:
        """Start the process with these environment variables and those of this process."""
        (self.run_dir / runs.FAILURE).unlink(missing_ok=True)
        with open(self.run_dir / runs.CONSOLE, "ab") as console:
            self._process = subprocess.Popen(
                self.command(),
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment, **processes.child_environment()},
                start_new_session=True,  # the terminal sends Ctrl-C to this process only, which stops the jobs
            )
        self.state, self.reason = Status.running, ""

    def poll(self) -> bool:
        """Return whether the process has ended, and update the attributes when it has."""
        assert self._process is not None
        exit_status = self._process.poll()
        if exit_status is None:
            return False
        if exit_status == 0 and runs.read_status(self.run_dir) is Status.finished:
            self.state = Status.finished
        elif self._killed or any(exit_status in (128 + number, -number) for number in runs.STOP_SIGNALS):
            self.state = Status.interrupted
        else:
            self.state, self.reason = Status.failed, _failure_reason(self.run_dir, exit_status)
        return True

    def stop(self) -> None:
        """Make the process save a checkpoint after the current step and end."""
        self._send_signal(signal.SIGTERM)

    def wait(self, *, seconds: float = 60) -> None:
        """Wait for the end of a process that has been stopped, and kill it after a while."""
        if self._process is not None:
            try:
                self._process.wait(seconds)
            except subprocess.TimeoutExpired:
                self.kill()
                self._process.wait()

    def kill(self) -> None:
        """End the process at once; the run can be resumed from its last checkpoint."""
        self._killed = True
        self._send_signal(signal.SIGKILL)

    def _send_signal(self, number: int) -> None:
        if self._process is not None and self._process.poll() is None:
            # SIGKILL goes to the whole group: a killed process cannot end its data loader processes.
            send = os.killpg if number == signal.SIGKILL else os.kill
            send(self._process.pid, number)


def record_failure(run_dir: Path, reason: str) -> None:
    """Write the reason of a failure into the run directory, unless the disk is the reason."""
    with contextlib.suppress(OSError):
        runs.write_text(run_dir / runs.FAILURE, reason + "\n")


def _failure_reason(run_dir: Path, exit_status: int) -> str:
    """Return the reason that a process recorded, or its exit status and the last lines of its output."""
    if (run_dir / runs.FAILURE).is_file():
        return (run_dir / runs.FAILURE).read_text(encoding="utf-8").strip()
    end = f"killed by {signal.Signals(-exit_status).name}" if exit_status < 0 else f"exit status {exit_status}"
    output = (run_dir / runs.CONSOLE).read_text(encoding="utf-8", errors="replace")
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return "\n".join([end, *lines[-3:]])


def run_jobs(jobs: Iterable[Job], slots: Sequence[Mapping[str, str]], *, watch: Callable[[Job], None]) -> int:
    """Execute jobs, as many at a time as there are slots; the failure of a job does not affect the others.

    The first of `runs.STOP_SIGNALS` makes all jobs save a checkpoint and end; the second kills them.

    Args:
        jobs: jobs to execute; the next one is requested when a slot is free.
        slots: environment variables of each slot.
        watch: function that is called with a job after its start, at every poll while it runs, and once after its end.

    Returns:
        The signal that ended the execution; 0 if all jobs have ended.
    """
    remaining, free_slots, running = iter(jobs), list(range(len(slots)))[::-1], dict[int, Job]()
    num_handled = 0
    with SignalNotes() as signals:
        try:
            while True:
                while free_slots and not signals.received and (job := next(remaining, None)) is not None:
                    job.start(slots[slot := free_slots.pop()])
                    running[slot] = job
                    watch(job)
                if not running:
                    return signals.received[0] if signals.received else 0
                time.sleep(POLL_SECONDS)
                if len(signals.received) > num_handled:
                    num_handled = len(signals.received)
                    for job in running.values():
                        job.stop() if num_handled == 1 else job.kill()
                for slot, job in list(running.items()):
                    if job.poll():
                        del running[slot]
                        free_slots.append(slot)
                    watch(job)
        finally:
            for job in running.values():  # only after an exception from `jobs` or `watch`
                job.stop()
            for job in running.values():
                job.wait()

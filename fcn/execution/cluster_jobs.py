"""A job of a sweep on a cluster, where a launcher (submitit) waits for the cluster's signals in the job's process.

The run is executed in a process of its own, which knows nothing of the launcher: a signal to the launcher's process has
the run saved, be it one process or several, and only then goes to who waited for it.
"""

from __future__ import annotations

import signal
import threading
import time
from types import FrameType

from fcn import runs
from fcn.errors import UserError
from fcn.execution.jobs import POLL_SECONDS, Job, State


class JobFailed(UserError):
    """A job of a sweep failed: its directory, and the reason."""


def execute(job: Job) -> None:
    """Execute a job until it is finished; it goes on where an earlier execution was stopped.

    Raises:
        JobFailed: if it fails.
        SystemExit: with 128 + signal, after one of `runs.STOP_SIGNALS` that nobody else waited for.
        Whatever who waited for the signal raises: submitit's ends the program after it has requeued the job.
    """
    print(f"{job.run_dir}: what it prints is in its {runs.CONSOLE}", flush=True)
    while runs.read_summary(job.run_dir).get("status") != State.finished:
        received = _execute_until_signal(job)
        if job.state is State.failed:
            raise JobFailed(f"{job.run_dir}: {job.reason}")
        if job.state is State.interrupted:
            # Without a signal to us, one has reached the run alone.
            for number in received or [signal.SIGTERM]:
                runs.hand_over(number, signal.getsignal(number) if received else None)


def _execute_until_signal(job: Job) -> list[int]:
    """Execute it once, and have it saved and stopped at the first signal; all that were received."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    in_main = threading.current_thread() is threading.main_thread()  # of a launcher by threads we see no signals
    before = {number: signal.signal(number, note) for number in runs.STOP_SIGNALS} if in_main else {}
    told = False
    try:
        job.start({})
        while not job.poll():
            if received and not told:
                told = True
                job.stop()
            time.sleep(POLL_SECONDS)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return received

"""A job of a sweep on a cluster, where a launcher (submitit) waits for the cluster's signals in the job's process.

The run is executed in a process of its own, which knows nothing of the launcher: a signal to the launcher's process has
the run saved, be it one process or several, and only then goes to who waited for it.
"""

from __future__ import annotations

import signal
import time

from fcn import runs
from fcn.errors import UserError
from fcn.execution.jobs import POLL_SECONDS, Job
from fcn.runs import Status
from fcn.runs.stop_signals import SignalNotes, hand_over


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
    while runs.read_status(job.run_dir) is not Status.finished:
        received = _execute_until_signal(job)
        if job.state is Status.failed:
            raise JobFailed(f"{job.run_dir}: {job.reason}")
        if job.state is Status.interrupted:
            # Without a signal to us, one has reached the run alone.
            for number in received or [signal.SIGTERM]:
                hand_over(number, signal.getsignal(number) if received else None)


def _execute_until_signal(job: Job) -> list[int]:
    """Execute it once, and have it saved and stopped at the first signal; all that were received."""
    with SignalNotes() as signals:
        stopping = False
        job.start({})
        while not job.poll():
            if signals.received and not stopping:
                stopping = True
                job.stop()
            time.sleep(POLL_SECONDS)
    return signals.received

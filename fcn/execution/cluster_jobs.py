"""A job of a sweep on a cluster, in a process whose launcher (submitit) handles the cluster's signals.

The run is executed in a child process. A signal to this process makes the run save a checkpoint and end, whether it has
one process or several; then the signal is passed to the launcher's handler.
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
    """Raised if a job of a sweep fails; the message states its directory and the reason."""


def execute_until_finished(job: Job) -> None:
    """Execute a job, resuming it after interruptions, until it is finished.

    Raises:
        JobFailed: if it fails.
        SystemExit: with 128 + signal, after one of `runs.STOP_SIGNALS` without a handler of the launcher.
        BaseException: any exception of the launcher's handler; submitit's requeues the job and ends the program.
    """
    print(f"{job.run_dir}: output in {runs.CONSOLE}", flush=True)
    while runs.read_status(job.run_dir) is not Status.finished:
        received = _execute_until_signal(job)
        if job.state is Status.failed:
            raise JobFailed(f"{job.run_dir}: {job.reason}")
        if job.state is Status.interrupted:
            # If the run is interrupted without a signal to this process, the run itself received one.
            for number in received or [signal.SIGTERM]:
                hand_over(number, signal.getsignal(number) if received else None)


def _execute_until_signal(job: Job) -> list[int]:
    """Execute a job once, stop it after the first signal, and return all signals received."""
    with SignalNotes() as signals:
        stopping = False
        job.start({})
        while not job.poll():
            if signals.received and not stopping:
                stopping = True
                job.stop()
            time.sleep(POLL_SECONDS)
    return signals.received

"""Execution of a run directory: in this process, or in several processes started by torch's elastic agent.

Lightning starts the other processes of a run by executing the command line again in each of them, which would start
a sweep again. Here each process gets only the path of a run directory.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from fcn import errors, runs
from fcn.config import Config, flatten, to_container
from fcn.config.overrides import for_shell
from fcn.execution.device_slots import count_processes, threads_per_process
from fcn.runs import rerun

SHUTDOWN_SECONDS = 300
"""Time for the ranks to finish their step and save after a signal; the agent's default is 30 s."""

STALLED = "RankStalled: "
"""Start of a rank's error message after fcn.training.watchdog has ended it."""

PARENT = "FCN_PARENT"
"""Environment variable with the process id of the process that started this one."""


def execute(run_dir: Path) -> dict[str, float]:
    """Execute a run directory in as many processes as it is configured for; return the final metrics.

    Raises:
        ConfigError: if the configuration cannot be executed here, or another process executes the run.
        RunFailure: if one of several processes failed.
        RunDiffers: if the run repeats another one with a different result.
        SystemExit: with 128 + signal, after one of `runs.STOP_SIGNALS`.
        Exception: any exception of `fcn.training.train.train`.
    """
    config = runs.load_config(run_dir)
    num_processes = count_processes(config)
    if num_processes == 1:
        from fcn.training import train

        train.train(config, run_dir)
    else:
        with runs.locked(run_dir):
            pass  # wait for an earlier execution to end: all ranks read the checkpoints at their start
        _execute_with_agent(run_dir, num_processes, config)
    (run_dir / runs.FAILURE).unlink(missing_ok=True)
    if config.rerun is not None:
        rerun.report_differences(run_dir)
    return runs.final_metrics(run_dir)


def _execute_with_agent(run_dir: Path, num_processes: int, config: Config) -> None:
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from fcn.execution import rendezvous

    for name in ("agent.server.api", "multiprocessing.api"):
        # torch would print several lines about a failed rank, which is reported in one line below.
        logging.getLogger(f"torch.distributed.elastic.{name}").setLevel(logging.CRITICAL)
    optional: dict[str, Any] = {}
    if "shutdown_timeout" in LaunchConfig.__dataclass_fields__:  # since torch 2.12
        optional = {"shutdown_timeout": SHUTDOWN_SECONDS}
    launch_config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=num_processes,
        run_id=run_dir.name,
        rdzv_backend=rendezvous.BACKEND,
        local_addr=rendezvous.ADDRESS,
        max_restarts=0,
        # Rank 0 writes to the terminal, the others to files.
        logs_specs=DefaultLogsSpecs(str(run_dir / "logs"), redirects=dict.fromkeys(range(1, num_processes), Std.ALL)),
        **optional,
    )
    # The agent passes its own environment to the ranks; `env` adds variables without changing those of this process.
    variables = [f"{name}={value}" for name, value in rank_environment(num_processes).items()]
    try:
        with _preemption_as_termination():
            launch = elastic_launch(launch_config, "/usr/bin/env")
            # The shell, because `env` would read an executable with "=" in its path as another variable.
            launch(*variables, "/bin/sh", "-c", 'exec "$0" "$@"', sys.executable, "-m", "fcn.worker", str(run_dir))
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        if failure.exitcode in {128 + number for number in runs.STOP_SIGNALS}:
            raise SystemExit(failure.exitcode) from None  # a signal to the ranks only; they have saved the run
        # Rank 0 may have been ended while it waited for the failed rank, and have recorded an interruption.
        runs.set_status(run_dir, runs.Status.failed)
        raise errors.RunFailure(_root_cause(error, run_dir, flatten(to_container(config)))) from None
    except SignalException as error:
        # After an ordinary exception Hydra would continue with the next job of a sweep.
        raise SystemExit(128 + error.sigval) from None


def _root_cause(error: Any, run_dir: Path, values: Mapping[str, Any]) -> str:
    """Return the message of the rank that failed first, from a ChildFailedError."""
    messages = {rank: _failure_message(failure) for rank, failure in error.failures.items()}
    for message in messages.values():
        if message.startswith(STALLED):
            return message.removeprefix(STALLED)

    def order(rank: int) -> tuple[bool, int, int]:
        # A rank that waited for the failed one may fail within the same second.
        return bool(errors.LOST_CONNECTION.search(messages[rank])), error.failures[rank].timestamp, rank

    rank = min(messages, key=order)
    failure = error.failures[rank]
    if failure.exitcode < 0 and not os.path.isfile(failure.error_file):
        remedy = f"then continue with {for_shell('resume', run_dir)}"
        return f"rank {rank} {errors.describe_signal(-failure.exitcode, values)}; {remedy}"
    return f"rank {rank} failed: {messages[rank].removeprefix('RunFailure: ')}"


def _failure_message(failure: Any) -> str:
    if not os.path.isfile(failure.error_file):
        return f"exit status {failure.exitcode}"
    message = failure.message
    return errors.message_line(str(message.get("message", "") if isinstance(message, dict) else message))


def rank_environment(num_processes: int) -> dict[str, str]:
    """Return the environment variables that the ranks of a run need in addition to those of this process."""
    from fcn.execution import rendezvous

    # The ranks share the cores, as with torchrun; otherwise each rank would start one thread per core.
    threads = os.environ.get("OMP_NUM_THREADS", threads_per_process(num_processes))
    return {**child_environment(), "OMP_NUM_THREADS": threads, **rendezvous.loopback_interfaces()}


def child_environment() -> dict[str, str]:
    """Return the environment variables of a child process that executes a run: its parent, and where to import fcn."""
    paths = [str(Path(__file__).resolve().parents[2]), os.environ.get("PYTHONPATH", "")]
    return {
        PARENT: str(os.getpid()),
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        # `python -m` would import a logging.py of the current folder in place of the standard library's (Python 3.11).
        "PYTHONSAFEPATH": "1",
        "HYDRA_FULL_ERROR": str(int(errors.WANTS_TRACEBACK)),  # the user's value
    }


@contextlib.contextmanager
def _preemption_as_termination() -> Iterator[None]:
    """Handle SIGUSR1 and SIGUSR2 like SIGTERM, and restore the handlers that the agent replaces.

    The agent forwards SIGTERM to the ranks; SIGUSR1 and SIGUSR2 would end the agent without notifying the ranks.
    """
    handlers = {number: signal.getsignal(number) for number in (*runs.STOP_SIGNALS, signal.SIGHUP, signal.SIGQUIT)}
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        if handlers[number] is signal.SIG_DFL:
            signal.signal(number, lambda *_: signal.raise_signal(signal.SIGTERM))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def end_with_parent() -> None:
    """Make Linux send SIGTERM to this process when its parent dies, so that no run outlives its command.

    Raises:
        SystemExit: if the parent has died already.
    """
    parent = os.environ.get(PARENT)
    if sys.platform != "linux" or (parent is None and "TORCHELASTIC_RUN_ID" not in os.environ):
        return
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if parent not in (None, str(os.getppid())):
        raise SystemExit(128 + signal.SIGTERM)

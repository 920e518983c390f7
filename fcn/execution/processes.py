"""Executing a run directory: in this process, or in several through torch's elastic agent.

Lightning's own way to start more processes is to run the command line again in each, which in a sweep starts the sweep
again; here a process gets the path of a run directory and nothing else.
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
from fcn.config import Accelerator, Config, ConfigError, check_batch_size, flatten, to_container
from fcn.errors import UserError

SHUTDOWN_SECONDS = 300
"""How long ranks may take to finish their step and save after a signal; the agent's default kills them after 30 s."""

HANGS = "RankHangs: "
"""Begins what a rank says that fcn.training.watchdog has ended."""

PARENT = "FCN_PARENT"
"""Environment variable with the process id of the process of ours that started this one."""


def count_processes(config: Config, *, gpus: int | None = None) -> int:
    """Processes of a run: `trainer.devices`, or all GPUs, or one on the CPU.

    Args:
        config: of the run.
        gpus: that the run will see; None counts those that torch sees here.

    Raises:
        ConfigError: if more GPUs are asked for than there are, or the batch cannot be shared evenly.
    """
    processes = config.trainer.devices or 1
    if config.trainer.accelerator is not Accelerator.cpu:
        found = count_gpus() if gpus is None else gpus
        processes = config.trainer.devices or max(found, 1)
        if processes > found and (found or config.trainer.accelerator is Accelerator.gpu):
            raise ConfigError(
                f"trainer.devices (={processes}) must be at most the GPUs that torch sees (={found}); use trainer=cpu"
            )
    check_batch_size(config, processes)
    return processes


def count_gpus() -> int:
    """GPUs that torch sees."""
    import torch  # slow to import: never for a command that only prints a configuration

    return torch.cuda.device_count()


def execute(run_dir: Path) -> dict[str, float]:
    """Execute a run directory in as many processes as its configuration says; the final metrics.

    Raises:
        ConfigError: if that cannot be, or another process executes it.
        RankFailed: if one of several processes failed.
        RunDiffers: if it repeats a run and came out differently.
        SystemExit: with 128 + signal, after one of `runs.STOP_SIGNALS`.
        Whatever `fcn.training.train.train` raises.
    """
    config = runs.load_config(run_dir)
    processes = count_processes(config)
    if processes == 1:
        from fcn.training import train

        train.train(config, run_dir)
    else:
        with runs.locked(run_dir):
            pass  # all ranks look at the checkpoints: an earlier execution must be over before the first one starts
        _execute_with_agent(run_dir, processes, config)
    if config.rerun is not None:
        from fcn.runs import rerun  # imports Hydra, which the process of a run does not need

        rerun.conclude(run_dir)
    return runs.final_metrics(run_dir)


def _execute_with_agent(run_dir: Path, processes: int, config: Config) -> None:
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from fcn.execution import rendezvous

    for name in ("agent.server.api", "multiprocessing.api"):
        # What the agent says of a failed rank, in several lines, is said by RankFailed in one.
        logging.getLogger(f"torch.distributed.elastic.{name}").setLevel(logging.CRITICAL)
    # Rank 0 speaks to the terminal, the others to files.
    patience: dict[str, Any] = {"shutdown_timeout": SHUTDOWN_SECONDS}
    if "shutdown_timeout" not in LaunchConfig.__dataclass_fields__:  # torch before 2.12: 30 s
        patience = {}
    logs = DefaultLogsSpecs(str(run_dir / "logs"), redirects=dict.fromkeys(range(1, processes), Std.ALL))
    agent = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=run_dir.name,
        rdzv_backend=rendezvous.BACKEND,
        local_addr=rendezvous.ADDRESS,
        max_restarts=0,
        logs_specs=logs,
        **patience,
    )
    try:
        with _worker_environment(processes), _preemption_as_termination():
            elastic_launch(agent, sys.executable)("-m", "fcn.worker", str(run_dir))
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        if failure.exitcode in {128 + number for number in runs.STOP_SIGNALS}:
            raise SystemExit(failure.exitcode) from None  # the ranks were signalled, not we; they have saved
        # Rank 0 may have been ended while it waited for the rank that failed, and have thought itself interrupted.
        runs.set_status(run_dir, runs.Status.failed)
        raise RankFailed(_root_cause(error, run_dir, flatten(to_container(config)))) from None
    except SignalException as error:
        # An ordinary exception would let Hydra go on with the next job of a sweep.
        raise SystemExit(128 + error.sigval) from None


class RankFailed(UserError):
    """One rank of a run failed: its rank, and the root cause."""


def _root_cause(error: Any, run_dir: Path, values: Mapping[str, Any]) -> str:
    told = {rank: _message(failure) for rank, failure in error.failures.items()}
    for line in told.values():
        if line.startswith(HANGS):
            return line.removeprefix(HANGS)
    # Whoever waited for a rank that ended may have failed of it in the same second.
    rank = min(told, key=lambda rank: (bool(errors.LOST.search(told[rank])), error.failures[rank].timestamp, rank))
    failure = error.failures[rank]
    if failure.exitcode < 0 and not os.path.isfile(failure.error_file):
        return f"rank {rank} {errors.killed(-failure.exitcode, values)}; then resume={run_dir} goes on"
    return f"rank {rank} failed: {told[rank].removeprefix('Fault: ')}"


def _message(failure: Any) -> str:
    message = failure.message
    if isinstance(message, dict):
        message = message.get("message", "")
    told = os.path.isfile(failure.error_file)
    return errors.line_of(str(message)) if told else f"exit status {failure.exitcode}"


@contextlib.contextmanager
def _worker_environment(processes: int) -> Iterator[None]:
    # Share the cores between ranks, as torchrun does; else each would start as many threads as there are cores.
    from fcn.execution import rendezvous

    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    before = dict(os.environ)
    os.environ.update(child_environment(), OMP_NUM_THREADS=threads, **rendezvous.interfaces())
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def child_environment() -> dict[str, str]:
    """What a process that executes a run for this one must know: whose child it is, and where this package lies."""
    paths = [str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    return {
        PARENT: str(os.getpid()),
        "PYTHONPATH": os.pathsep.join(path for path in paths if path),
        "HYDRA_FULL_ERROR": str(int(errors.WANTS_TRACEBACK)),
    }


@contextlib.contextmanager
def _preemption_as_termination() -> Iterator[None]:
    """The agent of older torch forwards SIGTERM to the ranks and dies of SIGUSR1 and 2; its handlers stay behind."""
    before = {number: signal.getsignal(number) for number in (*runs.STOP_SIGNALS, signal.SIGHUP, signal.SIGQUIT)}
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        if before[number] is signal.SIG_DFL:
            signal.signal(number, lambda *_: signal.raise_signal(signal.SIGTERM))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_with_parent() -> None:
    """Have Linux send SIGTERM when what started this process dies, also by SIGKILL: no run outlives its command."""
    parent = os.environ.get(PARENT)
    if sys.platform != "linux" or (parent is None and "TORCHELASTIC_RUN_ID" not in os.environ):
        return
    PR_SET_PDEATHSIG = 1
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if parent not in (None, str(os.getppid())):
        raise SystemExit(128 + signal.SIGTERM)  # it died before Linux was asked

"""From a composed configuration to an executed run directory: in this process, or as several through torch's agent.

Only the command that a person types composes. Lightning's own way to start more processes is to run the command line
again in each, which in a sweep starts the sweep again; here a worker gets the path of a run directory and nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import hydra
from hydra import initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from fcn import cli, rerun, runs
from fcn.config import Accelerator, Config, ConfigError, check_batch_size, from_composed

SHUTDOWN_SECONDS = 300
"""How long ranks may take to finish their step and save after a signal; the agent's default kills them after 30 s."""


def launch(composed: DictConfig) -> dict[str, float]:
    """Hydra's task: make Hydra's output directory a run directory and execute it; the final metrics."""
    settings = HydraConfig.get()
    overrides = list(settings.overrides.task)
    run_dir = Path(os.path.relpath(settings.runtime.output_dir))
    with _removing_if_empty(run_dir):
        config = from_composed(composed)
        if config.resume is None:
            if config.rerun is not None:
                config, overrides = rerun.prepare(config, overrides)
            processes = count_processes(config)
            runs.create(run_dir, config, overrides=overrides)
        else:
            _check_nothing_changes(config.resume, overrides)
            processes = count_processes(runs.load_config(run_dir))
    metrics = execute(run_dir, processes)
    if runs.load_config(run_dir).rerun is not None:
        rerun.conclude(run_dir)
    return metrics


def _check_nothing_changes(resume: str, overrides: Sequence[str]) -> None:
    others = [override for override in overrides if not override.startswith("resume=")]
    if others:
        raise ConfigError(f"resume (={resume}) brings its run's own configuration; leave out {' '.join(others)}")


@contextlib.contextmanager
def _removing_if_empty(run_dir: Path) -> Iterator[None]:
    """Hydra makes the directory before the task sees the configuration; a wrong one leaves nothing behind."""
    try:
        yield
    except BaseException:
        for directory in (run_dir, *run_dir.parents):
            if directory.name in ("", "..") or not directory.is_dir() or any(directory.iterdir()):
                break
            directory.rmdir()
        raise


def count_processes(config: Config) -> int:
    """Processes of a run: `trainer.devices`, or all GPUs, or one on the CPU.

    Raises:
        ConfigError: if more GPUs are asked for than there are, or the batch cannot be shared evenly.
    """
    processes = config.trainer.devices or 1
    if config.trainer.accelerator is not Accelerator.cpu:
        import torch  # slow to import: never for a command that only prints a configuration

        found = torch.cuda.device_count()
        processes = config.trainer.devices or max(found, 1)
        if processes > found and (found or config.trainer.accelerator is Accelerator.gpu):
            raise ConfigError(
                f"trainer.devices (={processes}) must be at most the GPUs that torch sees (={found}); use trainer=cpu"
            )
    check_batch_size(config, processes)
    return processes


def execute(run_dir: Path, processes: int) -> dict[str, float]:
    """Execute a run directory in this process, or in `processes` of its own; the final metrics."""
    if processes == 1:
        from fcn import worker

        return worker.execute(run_dir)
    _execute_with_agent(run_dir, processes)
    return runs.final_metrics(run_dir)


def _execute_with_agent(run_dir: Path, processes: int) -> None:
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException, Std
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in ("agent.server.api", "multiprocessing.api"):
        # What the agent says of a failed rank, in several lines, is said by RankFailed in one.
        logging.getLogger(f"torch.distributed.elastic.{name}").setLevel(logging.CRITICAL)
    # Rank 0 speaks to the terminal, the others to files.
    logs = DefaultLogsSpecs(str(run_dir / "logs"), redirects=dict.fromkeys(range(1, processes), Std.ALL))
    agent = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=processes,
        run_id=run_dir.name,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        local_addr="localhost",
        max_restarts=0,
        logs_specs=logs,
        shutdown_timeout=SHUTDOWN_SECONDS,
    )
    try:
        with _worker_environment(processes):
            elastic_launch(agent, sys.executable)("-m", "fcn.worker", str(run_dir))
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        if failure.exitcode in (128 + signal.SIGINT, 128 + signal.SIGTERM):
            raise SystemExit(failure.exitcode) from None  # the ranks were signalled, not we; they have saved
        _mark_failed(run_dir)
        raise RankFailed(_root_cause(error)) from None
    except SignalException as error:
        # An ordinary exception would let Hydra go on with the next job of a sweep.
        raise SystemExit(128 + error.sigval) from None


class RankFailed(ValueError):
    """One rank of a run failed: its rank, and the root cause."""


def _root_cause(error: Any) -> str:
    rank, failure = error.get_first_failure()
    message = failure.message
    if isinstance(message, dict):
        message = message.get("message", "")
    first_line = str(message).strip().splitlines()[0] if failure.error_file_data else f"exit status {failure.exitcode}"
    return f"rank {rank} failed: {first_line}"


def _mark_failed(run_dir: Path) -> None:
    """Rank 0 may have been ended while it waited for the rank that failed, and have thought itself interrupted."""
    if summary := runs.read_summary(run_dir):
        runs.write_summary(run_dir, {**summary, "metrics": runs.final_metrics(run_dir), "status": "failed"})


@contextlib.contextmanager
def _worker_environment(processes: int) -> Iterator[None]:
    # Share the cores between ranks, as torchrun does; else each would start as many threads as there are cores.
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    ours = {"OMP_NUM_THREADS": threads, "HYDRA_FULL_ERROR": str(int(cli.WANTS_TRACEBACK))}
    before = dict(os.environ)
    os.environ.update(ours)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def job_names(job_overrides: Sequence[Sequence[str]], *, first: int = 0) -> list[str]:
    """Directory names for the jobs of a sweep: number, and the overrides that not all jobs share.

    >>> job_names([["model.init=bilinear", "seed=1"], ["model.init=xavier", "seed=1"]])
    ['0_init-bilinear', '1_init-xavier']
    """
    shared = set.intersection(*(set(overrides) for overrides in job_overrides)) if len(job_overrides) > 1 else set()
    names = []
    for number, overrides in enumerate(job_overrides, start=first):
        varied = [override for override in overrides if override not in shared]
        names.append("_".join([str(number), *(slug for override in varied if (slug := _slug(override)))]))
    return [_shortened(name) for name in names]


def _slug(override: str) -> str:
    """`model.init=xavier` becomes `init-xavier`: safe in file names, unquoted on a command line and in TensorBoard."""
    key, _, value = override.lstrip("+~").partition("=")
    pieces = re.split(r"[^A-Za-z0-9.+]+", f"{re.split('[./]', key)[-1]}-{value}")
    return "-".join(piece.strip(".") for piece in pieces if piece.strip("."))


def _shortened(name: str, *, limit: int = 80) -> str:
    """File names end at 255 bytes, and people's patience earlier; the hash keeps cut names apart."""
    if len(name) <= limit:
        return name
    return f"{name[: limit - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def compose(*overrides: str) -> Config:
    """Configuration as `python train.py OVERRIDES` would compose it, for `fcn.experiment.train`.

    Raises:
        ConfigError: if a key, a value or an option is wrong.
    """
    cli.register()
    with initialize_config_dir(str(cli.CONF), version_base="1.3"):
        try:
            return from_composed(hydra.compose("config", list(overrides)))
        except (HydraException, OmegaConfBaseException) as error:
            raise ConfigError(cli.explain(error)) from error


def main() -> None:
    """The main job: `python train.py`."""
    cli.run_command(launch, config_name="config")

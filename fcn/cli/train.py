"""From what Hydra composes to executed run directories: a run, a sweep, or one of them again.

Only the command that a person types composes. What executes a run gets the path of its directory and nothing else.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import hydra
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from fcn import runs
from fcn.cli import hydra_entry
from fcn.config import Config, ConfigError, from_composed, typed
from fcn.config.messages import explain_composition
from fcn.config.overrides import without_keys
from fcn.config.paths import CONF
from fcn.execution import cluster_jobs, processes, sweeps
from fcn.execution.device_slots import build_slots, count_processes
from fcn.execution.job_names import job_names
from fcn.execution.jobs import Job
from fcn.runs import rerun
from fcn.runs import resume as resumption

MULTIRUN = "multirun.yaml"
"""Left by Hydra in the folder of a sweep."""


def launch(composed: DictConfig) -> dict[str, float] | float:
    """Hydra's task: make Hydra's output directory a run directory and execute it; the final metrics.

    As a job of a sweep by another launcher than ours, a cluster's say: go on with what is there; the score.
    """
    settings = HydraConfig.get()
    run_dir = Path(os.path.relpath(settings.runtime.output_dir))
    with _removing_if_empty(run_dir):
        # What is typed beside resume=... is checked together with the run's own keys, in resumption.prepare.
        config = typed(composed, Config) if composed.resume else from_composed(composed)
        overrides = list(settings.overrides.task)
        if settings.mode is RunMode.MULTIRUN:
            _check_is_job(config)
            config, overrides = _as_asked(config, overrides)
            cluster_jobs.execute_until_finished(sweeps.make_job(run_dir, config, overrides))
            return sweeps.best_score(run_dir)
        if not config.execute:
            return _prepare(run_dir, config, overrides)
        if config.resume is None:
            config, overrides = _as_asked(config, overrides)
            count_processes(config)
            runs.create(run_dir, config, overrides=overrides)
        else:
            if sweeps.is_sweep(config.resume):
                _check_nothing_changes(config.resume, overrides)
                return sweeps.resume_sweep(run_dir, num_slots=settings.launcher.get("slots"))
            if (run_dir / MULTIRUN).is_file():
                raise ConfigError(
                    f"resume (={config.resume}) is the sweep of another launcher; go on by typing its command again "
                    f"with hydra.sweep.dir={config.resume}"
                )
            resumption.prepare(run_dir, config, overrides)
    return processes.execute(run_dir)


def launch_sweep(
    composed: Sequence[DictConfig],
    overrides: Sequence[Sequence[str]],
    folder: Path,
    *,
    first: int,
    num_slots: int | None,
) -> list[Job]:
    """Make every composed configuration a run directory in `folder`, execute them side by side; the jobs.

    Jobs whose run is there already and finished are not executed again, others of them go on.

    Args:
        composed: one configuration per job.
        overrides: that made them.
        folder: of the sweep.
        first: number of the first job.
        num_slots: how many are executed at a time; None: as many as there are GPUs for, one on the CPU.

    Raises:
        ConfigError: before anything is executed, if a configuration is wrong.
        SystemExit: with 128 + signal, if the sweep is stopped.
    """
    folder = Path(os.path.relpath(folder))
    with _removing_if_empty(folder):
        configs = [from_composed(one) for one in composed]
        for config in configs:
            _check_is_job(config)
        prepared = [_as_asked(*job) for job in zip(configs, overrides, strict=True)]
        slots = build_slots([config for config, _ in prepared], number=num_slots)
        with sweeps.sweep_lock(folder):
            sweep = sweeps.Sweep.load(folder)
            names = job_names(overrides, first=first)
            jobs = sweep.add([(name, *job) for name, job in zip(names, prepared, strict=True)])
            sweep.execute(jobs, slots)
    return jobs


def _as_asked(config: Config, overrides: Sequence[str]) -> tuple[Config, list[str]]:
    """The configuration and overrides of a run, or of the run that it is to repeat."""
    return (config, list(overrides)) if config.rerun is None else rerun.prepare(config, overrides)


def _prepare(run_dir: Path, config: Config, overrides: Sequence[str]) -> dict[str, float]:
    """Make a run directory for another machine to execute; prints its path alone on standard output, for scripts."""
    overrides = without_keys(overrides, "execute")
    if config.resume is not None or config.rerun is not None:
        raise ConfigError("execute=false makes a new run; leave out resume=... and rerun=...")
    runs.create(run_dir, dataclasses.replace(config, execute=True), overrides=overrides)
    print(run_dir)
    print(f"not executed; python -m fcn.worker {run_dir} does it, here or on another machine", file=sys.stderr)
    return {}


def _check_is_job(config: Config) -> None:
    if config.resume is not None:
        raise ConfigError("resume=... goes without -m; resume=<folder of a sweep> goes on with all of its jobs")
    if not config.execute:
        raise ConfigError("execute=false goes without -m; a sweep is executed by its launcher, see hydra/launcher")


def _check_nothing_changes(resume: str, overrides: Sequence[str]) -> None:
    others = without_keys(overrides, "resume")
    if others:
        raise ConfigError(f"resume (={resume}) brings its jobs' own configurations; leave out {' '.join(others)}")


@contextlib.contextmanager
def _removing_if_empty(run_dir: Path) -> Iterator[None]:
    """Hydra makes the directory before the task sees the configuration; a wrong one leaves nothing behind."""
    try:
        yield
    except BaseException:
        if run_dir.is_dir() and {path.name for path in run_dir.iterdir()} <= {MULTIRUN, sweeps.DRIVER_LOCK}:
            for name in (MULTIRUN, sweeps.DRIVER_LOCK):
                (run_dir / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty, a link, a disk's own folder
            for directory in (run_dir, *run_dir.parents):
                if directory.name in ("", ".."):
                    break
                directory.rmdir()
        raise


def compose(*overrides: str) -> Config:
    """Configuration as `python train.py OVERRIDES` would compose it, for `fcn.training.train.train`.

    Raises:
        ConfigError: if a key, a value or an option is wrong.
    """
    hydra_entry.register()
    within_command = GlobalHydra().is_initialized()
    with contextlib.nullcontext() if within_command else initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            return from_composed(hydra.compose("config", list(overrides)))
        except Exception as error:  # also built-in ones, which Hydra and the YAML reader let through
            if (explanation := explain_composition(error)) is None:
                raise
            raise ConfigError(explanation) from error


def main() -> None:
    """The main job: `python train.py`."""
    hydra_entry.run_command(launch, config_name="config")

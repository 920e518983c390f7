"""`train.py`: from a composed configuration to executed run directories of a run, a sweep, or a resumed one.

Only this command composes. A process that executes a run receives only the path of its directory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from fcn import runs
from fcn.cli import hydra_entry
from fcn.cli.hydra_entry import given_overrides, removing_empty_folder, run_command
from fcn.config import Config, ConfigError, check_trains, validate_run
from fcn.config.overrides import choose_length, for_shell, values_by_key, without_keys
from fcn.config.rules import check_run
from fcn.execution import cluster_jobs, processes, sweeps
from fcn.execution.device_slots import build_slots, count_processes
from fcn.execution.job_names import job_names
from fcn.execution.jobs import Job
from fcn.runs import rerun
from fcn.runs.resume import apply_overrides, find_unfinished, replace_configuration, unchanged_unless_started
from fcn.runs.run_lookup import find_run
from fcn.runs.run_names import MULTIRUN


def launch(config: Config) -> dict[str, float] | float:
    """Make Hydra's output directory a run directory and execute it.

    Returns:
        The final metrics; for a job of a sweep with a launcher of another package, the best score.
    """
    settings = HydraConfig.get()
    if not config.resume:  # keys given with resume=... are checked together with those of the run
        check_run(config)
    overrides = given_overrides()
    run_dir = Path(os.path.relpath(settings.runtime.output_dir))
    if settings.mode is RunMode.MULTIRUN:
        _check_is_job(config)
        config, overrides = _repeated(config, overrides)
        cluster_jobs.execute_until_finished(sweeps.make_job(run_dir, config, overrides))
        return runs.best_score(run_dir)
    if config.trainer.dry_run_processes is not None:
        return _measure_only(config)
    if not config.execute:
        return _create_only(run_dir, config, overrides)
    if config.resume is not None:
        if sweeps.is_sweep(config.resume):
            _check_nothing_changes(config.resume, overrides)
            launcher = settings.launcher
            slots_per_gpu = launcher.get("slots_per_gpu", 1)
            return sweeps.resume_sweep(run_dir, num_slots=launcher.get("slots"), slots_per_gpu=slots_per_gpu)
        if (run_dir / MULTIRUN).is_file():
            raise ConfigError(
                f"resume (={config.resume}) must be a run or a sweep of hydra/launcher=runs; to resume the sweep of "
                f"another launcher, repeat its command with {for_shell('hydra.sweep.dir', config.resume)}"
            )
        with unchanged_unless_started(run_dir):
            apply_overrides(run_dir, config, overrides)
            return processes.execute(run_dir)
    if config.autoresume:
        if config.rerun is not None:
            raise ConfigError("autoresume (=true) cannot be combined with rerun=...; leave one out")
        if unfinished := find_unfinished(run_dir, config):
            with contextlib.suppress(OSError):
                run_dir.rmdir()  # Hydra has created it for a new run
            print(f"autoresume {unfinished}, the newest unfinished run with this configuration", file=sys.stderr)
            with unchanged_unless_started(unfinished):
                replace_configuration(unfinished, config)
                return processes.execute(unfinished)
    config, overrides = _repeated(config, overrides)
    count_processes(config)
    return processes.execute(runs.create(run_dir, config, overrides=overrides, is_time=_is_time(settings)))


def launch_sweep(
    composed: Sequence[DictConfig],
    overrides: Sequence[Sequence[str]],
    folder: Path,
    *,
    first: int,
    num_slots: int | None,
    slots_per_gpu: int,
) -> list[Job]:
    """Create a run directory in `folder` for every composed configuration, and execute them side by side.

    Jobs that are already finished are not executed again; unfinished ones are resumed.

    Args:
        composed: one configuration per job.
        overrides: overrides of each job.
        folder: folder of the sweep.
        first: number of the first job.
        num_slots: number of jobs executed at a time; None: as many as the GPUs allow, one on the CPU.
        slots_per_gpu: number of jobs that share a GPU.

    Returns:
        The jobs with their final states.

    Raises:
        ConfigError: before anything is executed, if a configuration is invalid.
        SystemExit: with 128 + signal, if the sweep is stopped.
    """
    folder = Path(os.path.relpath(folder))
    with removing_empty_folder(folder, files=(MULTIRUN, sweeps.DRIVER_LOCK)):
        for one, given in zip(composed, overrides, strict=True):
            choose_length(one, given)
        configs = [validate_run(one) for one in composed]
        for config in configs:
            _check_is_job(config)
        prepared = [_repeated(*job) for job in zip(configs, overrides, strict=True)]
        slots = build_slots([config for config, _ in prepared], number=num_slots, per_gpu=slots_per_gpu)
        with sweeps.sweep_lock(folder):
            sweep = sweeps.Sweep.load(folder)
            names = job_names(overrides, first=first)
            jobs = sweep.add([(name, *job) for name, job in zip(names, prepared, strict=True)])
            sweep.execute(jobs, slots)
    return jobs


def _repeated(config: Config, overrides: Sequence[str]) -> tuple[Config, list[str]]:
    """Return configuration and overrides as given, or with rerun=... those of the run to repeat."""
    return (config, list(overrides)) if config.rerun is None else rerun.prepare_copy(config, overrides)


def _is_time(settings: Any) -> bool:
    """Whether the output directory is named by the time, and not by hydra.run.dir=... ."""
    return "${run_directory:" in str(OmegaConf.to_container(settings.run))


def _create_only(run_dir: Path, config: Config, overrides: Sequence[str]) -> dict[str, float]:
    """Create a run directory for another machine, and print only its path on standard output, for scripts."""
    overrides = without_keys(overrides, "execute")
    if config.resume is not None or config.rerun is not None or config.autoresume:
        raise ConfigError("execute=false cannot be combined with resume, rerun or autoresume; leave one out")
    config = dataclasses.replace(config, execute=True)
    run_dir = runs.create(run_dir, config, overrides=overrides, is_time=_is_time(HydraConfig.get()))
    print(run_dir)
    print(
        f"not executed; run python -m fcn.worker {shlex.quote(str(run_dir))} here or on another machine",
        file=sys.stderr,
    )
    return {}


def _measure_only(config: Config) -> dict[str, float]:
    """Print what each of `trainer.dry_run_processes` processes would do and need."""
    if config.resume is not None or config.rerun is not None or config.autoresume or not config.execute:
        raise ConfigError(
            f"trainer.dry_run_processes (={config.trainer.dry_run_processes}) cannot be combined with resume, rerun, "
            "autoresume or execute=false; leave one out"
        )
    from fcn.training.dry_run import dry_run, try_batch_sizes

    if config.trainer.dry_run_batch_sizes:
        try_batch_sizes(config)
    else:
        dry_run(config)
    return {}


def _check_is_job(config: Config) -> None:
    check_trains(config)
    if config.resume is not None:
        raise ConfigError("resume=... cannot be combined with -m; resume=<folder of a sweep> resumes all of its jobs")
    if not config.execute:
        raise ConfigError("execute=false cannot be combined with -m; choose a launcher with hydra/launcher=...")
    if config.autoresume:
        raise ConfigError(
            "autoresume (=true) cannot be combined with -m; a sweep goes on if its command is repeated with the same "
            "hydra.sweep.dir=..."
        )


def _check_nothing_changes(resume: str, overrides: Sequence[str]) -> None:
    others = without_keys(overrides, "resume")
    if others:
        raise ConfigError(f"resume (={resume}) uses the configurations of its jobs; leave out {' '.join(others)}")


def _run_directory(resume: str | None, rerun_of: str | None, name: str, _root_: DictConfig) -> str:
    """Return Hydra's output directory: the run that is resumed, or a new directory named by the time.

    A dry run has none, so that Hydra creates no directory.
    """
    if not resume and OmegaConf.select(_root_, "trainer.dry_run_processes") is not None:
        return "."
    if rerun_of and "name" not in values_by_key(_root_.hydra.overrides.task):
        name = runs.load_config(Path(rerun_of)).name
    return resume or str(Path("outputs", name, f"{datetime.now():%Y-%m-%d_%H-%M-%S}"))


def _sweep_directory(name: str, study: str | None) -> str:
    """Create the folder of a sweep, which no other command can then take, and return its name."""
    folder = Path("outputs", name, f"{study + '_' if study else ''}{datetime.now():%Y-%m-%d_%H-%M-%S}")
    return str(folder if hydra_entry.composes_only() else runs.create_folder(folder))


def main() -> None:
    """Run the main job: `python train.py`."""
    run_keys = {"resume": partial(find_run, "resume", sweeps=True), "rerun": partial(find_run, "rerun")}
    run_command(launch, config_name="config", schema=Config, implied=_options_of_resumed_run, run_keys=run_keys)


def _options_of_resumed_run(values: Mapping[str, str]) -> list[str]:
    return runs.chosen_options(Path(values["resume"])) if values.get("resume") else []


# At import, because the processes of other launchers import this module before Hydra creates their directory.
OmegaConf.register_new_resolver("run_directory", _run_directory, replace=True)
# With a cache in the configuration, because Hydra resolves the name several times, also in the processes of jobs.
OmegaConf.register_new_resolver("sweep_directory", _sweep_directory, replace=True, use_cache=True)

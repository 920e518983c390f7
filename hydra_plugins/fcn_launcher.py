"""`hydra/launcher=runs`, the default launcher of sweeps. Hydra finds launchers only in this namespace package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf, open_dict

from fcn import runs
from fcn.cli import train
from fcn.config.overrides import parse_overrides, split_override
from fcn.execution import sweeps
from fcn.execution.job_names import job_names
from fcn.execution.jobs import Job
from fcn.runs import Status


class RunsLauncher(Launcher):
    """Hydra launcher that makes every job of a sweep a run directory and executes it in processes of its own.

    Args:
        slots: number of concurrent jobs; None: as many as the GPUs suffice for, or one on the CPU.
        slots_per_gpu: number of concurrent jobs for which a GPU suffices; without effect on the CPU.
    """

    def __init__(self, *, slots: int | None = None, slots_per_gpu: int = 1) -> None:
        self.slots = slots
        self.slots_per_gpu = slots_per_gpu

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context = hydra_context
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        setup_globals()
        HydraConfig.instance().set_config(self.config)
        composed = [self._compose(overrides) for overrides in job_overrides]
        folder = Path(self.config.hydra.sweep.dir)
        jobs = train.launch_sweep(
            composed,
            job_overrides,
            folder,
            first=initial_job_idx,
            num_slots=self.slots,
            slots_per_gpu=self.slots_per_gpu,
        )
        return [
            _job_return(job, config, sweeps.sweep_failure(jobs)) for job, config in zip(jobs, composed, strict=True)
        ]

    def _compose(self, overrides: Sequence[str]) -> DictConfig:
        config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config):
            del config["hydra"]
        return config


class _FailedJob(JobReturn):
    """Job whose value raises its error; Hydra 1.3's own class also logs a line."""

    @property  # type: ignore[misc]  # overrides a property with a setter
    def return_value(self) -> Any:
        raise self._return_value


def _job_return(job: Job, config: DictConfig, failure: Exception | None) -> JobReturn:
    """Return the result of a job for the sweeper: its score, or the failure of the sweep."""
    facts: dict[str, Any] = {"overrides": job.overrides, "cfg": config, "working_dir": str(job.run_dir)}
    if job.state is Status.finished:
        return JobReturn(**facts, status=JobStatus.COMPLETED, _return_value=runs.best_score(job.run_dir))
    return _FailedJob(**facts, status=JobStatus.FAILED, _return_value=failure)


def _job_directory(number: int, overrides: Sequence[str], folder: str) -> str:
    """Return the directory name of a job under another launcher, which starts jobs one by one.

    The name is the one that `RunsLauncher` would give.

    Args:
        number: number of the job.
        overrides: overrides of the job.
        folder: folder of the sweep; its multirun.yaml contains the overrides of the command line.
    """
    command_line: list[str] = []
    if (multirun := Path(folder, "multirun.yaml")).is_file():
        command_line = list(OmegaConf.load(multirun).hydra.overrides.task)
    parsed = parse_overrides(command_line)
    fixed = {
        split_override(text)[0]
        for text, override in zip(command_line, parsed, strict=True)
        if not override.is_sweep_override()
    }
    varied = [override for override in overrides if split_override(override)[0] not in fixed]
    return job_names([varied or list(overrides)], first=number)[0]


# Registered here: processes of other launchers import this module before they create the directory.
OmegaConf.register_new_resolver("job_directory", _job_directory, replace=True)
ConfigStore.instance().store(
    group="hydra/launcher",
    name="runs",
    node={"_target_": f"{__name__}.RunsLauncher", "slots": None, "slots_per_gpu": 1},
    provider="fcn",
)

"""`hydra/launcher=runs`, the launcher of sweeps. Hydra accepts launchers from this namespace package only."""

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

from fcn.cli import train
from fcn.config.overrides import parse_overrides, split_override
from fcn.execution import sweeps
from fcn.execution.job_names import job_names
from fcn.execution.jobs import Job
from fcn.runs import Status


class RunsLauncher(Launcher):
    """Hydra's launcher for sweeps: every job is a run directory, executed in processes of its own.

    Args:
        slots: jobs that are executed at a time; null: as many as there are GPUs for, one on the CPU.
    """

    def __init__(self, *, slots: int | None = None) -> None:
        self.slots = slots

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context = hydra_context
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        setup_globals()
        HydraConfig.instance().set_config(self.config)
        composed = [self._compose(overrides) for overrides in job_overrides]
        folder = Path(self.config.hydra.sweep.dir)
        jobs = train.launch_sweep(composed, job_overrides, folder, first=initial_job_idx, num_slots=self.slots)
        return [_returned(job, config, sweeps.sweep_failure(jobs)) for job, config in zip(jobs, composed, strict=True)]

    def _compose(self, overrides: Sequence[str]) -> DictConfig:
        config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        with open_dict(config):
            del config["hydra"]
        return config


class _Failed(JobReturn):
    """Raises what made it fail when its value is asked for; Hydra's own prints a line besides."""

    @property  # type: ignore[misc]  # nobody sets it
    def return_value(self) -> Any:
        raise self._return_value


def _returned(job: Job, config: DictConfig, failure: Exception | None) -> JobReturn:
    """What the sweeper gets of a job: the score, or what raises that the sweep has failed."""
    facts: dict[str, Any] = {"overrides": job.overrides, "cfg": config, "working_dir": str(job.run_dir)}
    if job.state is Status.finished:
        return JobReturn(**facts, status=JobStatus.COMPLETED, _return_value=sweeps.best_score(job.run_dir))
    return _Failed(**facts, status=JobStatus.FAILED, _return_value=failure)


def _job_directory(number: int, overrides: Sequence[str], folder: str) -> str:
    """Name of a job's directory where another launcher makes it, one job at a time: as `RunsLauncher` names them.

    Args:
        number: of the job.
        overrides: its own.
        folder: of the sweep, where Hydra has left the overrides as typed.
    """
    typed: list[str] = []
    if (saved := Path(folder, "multirun.yaml")).is_file():
        typed = list(OmegaConf.load(saved).hydra.overrides.task)
    parsed = parse_overrides(typed)
    fixed = {
        split_override(text)[0]
        for text, override in zip(typed, parsed, strict=True)
        if not override.is_sweep_override()
    }
    varied = [override for override in overrides if split_override(override)[0] not in fixed]
    return job_names([varied or list(overrides)], first=number)[0]


# Here, because this module is what a process of another launcher imports of us before it makes the directory.
OmegaConf.register_new_resolver("job_directory", _job_directory, replace=True)
ConfigStore.instance().store(
    group="hydra/launcher", name="runs", node={"_target_": f"{__name__}.RunsLauncher", "slots": None}, provider="fcn"
)

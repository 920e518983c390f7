"""A sweep: run directories in one folder, executed concurrently; sweep.json lists them in order.

Everything else about a job is read from its run directory: configuration, overrides, status and score.
"""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from fcn import config as configuration
from fcn import runs
from fcn.config import Config, ConfigError
from fcn.config.overrides import for_shell
from fcn.errors import UserError
from fcn.execution.device_slots import build_slots
from fcn.execution.job_names import shared_overrides
from fcn.execution.jobs import Job, run_jobs
from fcn.execution.sweep_table import SweepTable
from fcn.runs import Status

SWEEP = "sweep.json"
DRIVER_LOCK = ".driver"
REMEDY = "use another hydra.sweep.dir"


class SweepFailed(UserError):
    """Raised if some jobs of a sweep are not finished; the message states their number."""


@dataclass
class Sweep:
    """The jobs of a folder, in the order in which they were added. A process that uses a sweep holds `sweep_lock`.

    Attributes:
        folder: folder with a run directory per job, and sweep.json.
        jobs: jobs whose run directory exists.
    """

    folder: Path
    jobs: list[Job]

    @classmethod
    def load(cls, folder: Path) -> Sweep:
        """Return the sweep of a folder, without jobs if the folder has no sweep.json.

        Raises:
            ConfigError: if sweep.json cannot be read.
        """
        path = folder / SWEEP
        if not path.is_file():
            return cls(folder, [])
        try:
            run_dirs = [folder / name for name in json.loads(path.read_text(encoding="utf-8"))["jobs"]]
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{path} must be the list of a sweep's jobs ({type(error).__name__}: {error}); delete it, and repeat "
                f"the sweep's command with {for_shell('hydra.sweep.dir', folder)}"
            ) from error
        # A job whose directory has been deleted is created again by the sweep's command.
        return cls(folder, [_load_job(run_dir) for run_dir in run_dirs if (run_dir / runs.CONFIG).is_file()])

    def save(self) -> None:
        """Write sweep.json."""
        names = [job.run_dir.name for job in self.jobs]
        runs.write_text(self.folder / SWEEP, json.dumps({"jobs": names}, indent=2) + "\n")

    def add(self, requested: Sequence[tuple[str, Config, Sequence[str]]]) -> list[Job]:
        """Return the jobs with these names, configurations and overrides; new run directories for new configurations.

        Raises:
            ConfigError: before any directory is created, if one of them has another configuration.
        """
        existing = {job: runs.load_config(job.run_dir) for job in self.jobs}
        new: dict[Job, Config] = {}
        jobs = []
        for name, config, overrides in requested:
            job = next((job for job, other in {**existing, **new}.items() if other == config), None)
            if job is None:
                job = Job(self.folder / name, list(overrides))
                new[job] = config
            jobs.append(job)
        for job, config in new.items():
            _check_same_config(job.run_dir, config, remedy=REMEDY)
        for job, config in new.items():
            make_job(job.run_dir, config, job.overrides)
        self.jobs += new
        self.save()
        return jobs

    def execute(self, jobs: Sequence[Job], slots: Sequence[Mapping[str, str]]) -> None:
        """Execute the unfinished ones of these jobs, see `fcn.execution.jobs`; then compare all jobs of the sweep.

        Raises:
            SystemExit: with 128 + signal, if the sweep is stopped.
        """
        jobs = list(dict.fromkeys(jobs))  # several names may have one configuration, and therefore one job
        waiting = [job for job in jobs if job.state is not Status.finished]
        done = f", {len(jobs) - len(waiting)} of them finished already" if len(waiting) < len(jobs) else ""
        headline = f"sweep    {self.folder}: {len(jobs)} job{'s' * (len(jobs) != 1)}{done}, {at_a_time(slots)}"
        shared = shared_overrides([job.overrides for job in jobs])
        with SweepTable(self.folder, jobs, headline=headline, shared=shared) as table:
            number = run_jobs(waiting, slots, watch=table.report)
        if number:
            num_finished = sum(job.state is Status.finished for job in self.jobs)
            remedy = f"continue with {for_shell('resume', self.folder)}"
            print(f"stopped: {num_finished} of {len(self.jobs)} jobs are finished; {remedy}")
            raise SystemExit(128 + number)
        self._compare()

    def _compare(self) -> None:
        """Print a comparison of the jobs and write it to the folder."""
        from fcn.comparison.output_files import summarize_sweep  # imports NumPy, which --help does not need
        from fcn.comparison.run_records import ComparisonError

        try:
            Console().print(summarize_sweep(self.folder))
        except ComparisonError as error:  # for example without any validation
            print(f"not compared: {error}")
        else:
            command = f"python scripts/compare.py {shlex.quote(str(self.folder))}"
            print(f"{self.folder}/comparison.md, .csv, .png; more with {command}")


def _load_job(run_dir: Path) -> Job:
    finished = runs.read_status(run_dir) is Status.finished
    return Job(run_dir, runs.load_overrides(run_dir), Status.finished if finished else Status.queued)


def sweep_failure(jobs: Sequence[Job]) -> SweepFailed | None:
    """Return the exception for unfinished jobs; None if all are finished."""
    unfinished = [job for job in jobs if job.state is not Status.finished]
    if not unfinished:
        return None
    num_failed = sum(job.state is Status.failed for job in unfinished)
    outcome = (
        f"{num_failed} of {len(jobs)} jobs failed"
        if num_failed
        else f"{len(unfinished)} of {len(jobs)} jobs were stopped"
    )
    return SweepFailed(f"{outcome}; continue with {for_shell('resume', unfinished[0].run_dir.parent)}")


def is_sweep(folder: str | Path) -> bool:
    return (Path(folder) / SWEEP).is_file()


def resume_sweep(folder: Path, *, num_slots: int | None = None, slots_per_gpu: int = 1) -> dict[str, float]:
    """Execute the unfinished jobs of a sweep, and return the score of every job by its name.

    Raises:
        SweepFailed: if jobs failed.
        ConfigError, SystemExit: see `Sweep.load`, `sweep_lock` and `Sweep.execute`.
    """
    with sweep_lock(folder):
        sweep = Sweep.load(folder)
        unfinished = [runs.load_config(job.run_dir) for job in sweep.jobs if job.state is not Status.finished]
        sweep.execute(sweep.jobs, build_slots(unfinished, number=num_slots, per_gpu=slots_per_gpu))
    if error := sweep_failure(sweep.jobs):
        raise error
    return {job.run_dir.name: runs.best_score(job.run_dir) for job in sweep.jobs}


def sweep_lock(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Return the lock of a sweep, which one command at a time may hold.

    Raises:
        ConfigError: on entering, if another process holds it.
    """
    return runs.locked(folder, name=DRIVER_LOCK, patience=0)


def make_job(run_dir: Path, config: Config, overrides: Sequence[str], *, remedy: str = REMEDY) -> Job:
    """Return the job of a directory, and make it a run directory of this configuration if it is not one yet.

    Raises:
        ConfigError: with `remedy`, if the directory has another configuration.
    """
    _check_same_config(run_dir, config, remedy=remedy)
    if not (run_dir / runs.CONFIG).exists():
        runs.create(run_dir, config, overrides=overrides)
    return Job(run_dir, list(overrides))


def _check_same_config(run_dir: Path, config: Config, *, remedy: str) -> None:
    if not (run_dir / runs.CONFIG).exists():
        return
    existing, requested = (
        configuration.flatten(configuration.to_container(each)) for each in (runs.load_config(run_dir), config)
    )
    if keys := [key for key in requested if existing[key] != requested[key]]:
        raise ConfigError(
            f"{run_dir} contains a run with other values of {', '.join(keys[:4])}; {remedy}, or the same values"
        )


def at_a_time(slots: Sequence[object]) -> str:
    return "one at a time" if len(slots) == 1 else f"{len(slots)} at a time"

"""A sweep: run directories below one folder, executed side by side, and what sweep.json says of them."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from fcn import config as configuration
from fcn import runs
from fcn.config import Config, ConfigError
from fcn.config.overrides import split_override
from fcn.errors import UserError
from fcn.execution.device_slots import build_slots
from fcn.execution.jobs import Job, run_jobs
from fcn.execution.sweep_table import Board
from fcn.runs import Status

SWEEP = "sweep.json"
DRIVER = ".driver"
REMEDY = "use another hydra.sweep.dir"


class SweepFailed(UserError):
    """Some jobs of a sweep are not finished: how many."""


@dataclass
class Sweep:
    """The jobs of a folder, in the order in which they were added. One process at a time holds a sweep, see `holding`.

    Attributes:
        folder: holds a run directory per job, and sweep.json.
        jobs: those that are in the folder.
    """

    folder: Path
    jobs: list[Job]

    @classmethod
    def load(cls, folder: Path) -> Sweep:
        """The sweep of a folder as its run directories stand; one without jobs if there is none yet.

        Raises:
            ConfigError: if sweep.json is none of this version.
        """
        path = folder / SWEEP
        if not path.is_file():
            return cls(folder, [])
        try:
            entries = json.loads(path.read_text(encoding="utf-8"))["jobs"].items()
            jobs = [_job(folder / name, entry) for name, entry in entries]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"{path} must be of a sweep of this version ({type(error).__name__}: {error}); delete it, and type the "
                f"sweep's command again with hydra.sweep.dir={folder}"
            ) from error
        # Somebody may have deleted a job to have it done anew: typing the sweep's command again makes it.
        return cls(folder, [job for job in jobs if (job.run_dir / runs.CONFIG).is_file()])

    def save(self) -> None:
        """Write sweep.json."""
        jobs = {
            job.run_dir.name: {
                "state": job.state,
                "overrides": job.overrides,
                "started": job.started,
                "ended": job.ended,
                "reason": job.reason,
            }
            for job in self.jobs
        }
        runs.write_text(self.folder / SWEEP, json.dumps({"jobs": jobs}, indent=2) + "\n")

    def add(self, wanted: Sequence[tuple[str, Config, Sequence[str]]]) -> list[Job]:
        """The jobs of these names, configurations and overrides: those that are there already, and new run directories.

        Raises:
            ConfigError: before any directory is made, if one of them holds another configuration.
        """
        by_content = {_content(runs.load_config(job.run_dir)): job for job in self.jobs}
        new: dict[Job, Config] = {}
        jobs = []
        for name, config, overrides in wanted:
            content = _content(config)
            if content not in by_content:
                by_content[content] = job = Job(self.folder / name, list(overrides))
                new[job] = config
            jobs.append(by_content[content])
        for job, config in new.items():
            _check_free(job.run_dir, config, remedy=REMEDY)
        for job, config in new.items():
            make_job(job.run_dir, config, job.overrides)
        self.jobs += new
        self.save()
        return jobs

    def execute(self, jobs: Sequence[Job], slots: Sequence[Mapping[str, str]]) -> None:
        """Execute those of the jobs that are not finished, see `fcn.execution.jobs`; then compare all there are.

        Raises:
            SystemExit: with 128 + signal, if it is stopped.
        """
        jobs = list(dict.fromkeys(jobs))  # two jobs of the same configuration are one
        waiting = [job for job in jobs if job.state is not Status.finished]
        for job in waiting:
            job.state = Status.queued
        self.save()
        states = {job: job.state for job in waiting}
        done = f", {len(jobs) - len(waiting)} of them finished already" if len(waiting) < len(jobs) else ""
        headline = f"sweep    {self.folder}: {len(jobs)} job{'s' * (len(jobs) != 1)}{done}, {at_a_time(slots)}"
        shared = _shared([job.overrides for job in jobs])
        with Board(self.folder, jobs, headline=headline, shared=shared) as board:

            def watch(job: Job) -> None:
                if job.state is not states[job]:
                    states[job] = job.state
                    self.save()
                    board.tell(job)

            number = run_jobs(waiting, slots, watch=watch)
        if number:
            finished = sum(job.state is Status.finished for job in self.jobs)
            print(f"stopped: {finished} of {len(self.jobs)} jobs are finished; go on with resume={self.folder}")
            raise SystemExit(128 + number)
        self._compare()

    def _compare(self) -> None:
        """Print how the jobs compare and leave it in the folder, for whoever reads it later."""
        from fcn.comparison import ComparisonError, write_comparison  # NumPy is not waited for to print a help

        try:
            Console().print(write_comparison(self.folder))
        except ComparisonError as error:  # there is nothing to compare, as when no job was validated
            print(f"not compared: {error}")
        else:
            more = "python scripts/compare.py"
            print(f"{self.folder}/comparison.md, .csv, .png; more by {more} {self.folder}")


def score(run_dir: Path) -> float:
    """Best val mIoU of a run, which is what sweepers get; NaN if it was never validated."""
    best = runs.read_summary(run_dir).get("best", {}).get("val/mean_iou")
    return math.nan if best is None else float(best)


def failure(jobs: Sequence[Job]) -> SweepFailed | None:
    """What to raise for jobs that are not all finished; None if they are."""
    unfinished = [job for job in jobs if job.state is not Status.finished]
    if not unfinished:
        return None
    failed = sum(job.state is Status.failed for job in unfinished)
    what = f"{failed} of {len(jobs)} jobs failed" if failed else f"{len(unfinished)} of {len(jobs)} jobs were stopped"
    return SweepFailed(f"{what}; go on with resume={unfinished[0].run_dir.parent}")


def is_sweep(folder: str | Path) -> bool:
    return (Path(folder) / SWEEP).is_file()


def resume(folder: Path, *, num_slots: int | None = None) -> dict[str, float]:
    """Go on with the jobs of a sweep that are not finished; the score of every job by its name.

    Raises:
        SweepFailed: if jobs failed.
        ConfigError, SystemExit: as `Sweep.execute`.
    """
    with holding(folder):
        sweep = Sweep.load(folder)
        waiting = [runs.load_config(job.run_dir) for job in sweep.jobs if job.state is not Status.finished]
        sweep.execute(sweep.jobs, build_slots(waiting, number=num_slots))
    if error := failure(sweep.jobs):
        raise error
    return {job.run_dir.name: score(job.run_dir) for job in sweep.jobs}


def holding(folder: Path) -> contextlib.AbstractContextManager[None]:
    """Hold a sweep, so that two commands do not both write its state.

    Raises:
        ConfigError: if another process holds it.
    """
    return runs.locked(folder, name=DRIVER, patience=0)


def make_job(run_dir: Path, config: Config, overrides: Sequence[str], *, remedy: str = REMEDY) -> Job:
    """The job of a directory, which is made a run directory of this configuration unless it is one already.

    Raises:
        ConfigError: with `remedy`, if the directory holds another configuration.
    """
    _check_free(run_dir, config, remedy=remedy)
    if not (run_dir / runs.CONFIG).exists():
        runs.create(run_dir, config, overrides=overrides)
    return Job(run_dir, list(overrides))


def _check_free(run_dir: Path, config: Config, *, remedy: str) -> None:
    if not (run_dir / runs.CONFIG).exists():
        return
    if keys := differing(runs.load_config(run_dir), config):
        raise ConfigError(
            f"{run_dir} holds a run that differs in {', '.join(keys[:4])}; {remedy}, or leave these as they were"
        )


def _content(config: Config) -> str:
    """Equal for equal configurations."""
    return json.dumps(configuration.to_container(config), sort_keys=True)


def at_a_time(slots: Sequence[object]) -> str:
    return "one at a time" if len(slots) == 1 else f"{len(slots)} at a time"


def differing(one: Config, other: Config) -> list[str]:
    """Keys in which two configurations differ."""
    values = [configuration.flatten(configuration.to_container(config)) for config in (one, other)]
    return [key for key in values[1] if values[0][key] != values[1][key]]


def _job(run_dir: Path, entry: dict[str, object]) -> Job:
    """A job from its entry in sweep.json; whether it is finished is what its run says."""
    state = Status(str(entry["state"]))
    if runs.read_status(run_dir) is Status.finished:
        state = Status.finished
    elif state in (Status.running, Status.finished):  # the driver was killed, or the run emptied
        state = Status.interrupted
    return Job(run_dir, list(entry["overrides"]), state, str(entry["reason"]), entry["started"], entry["ended"])  # type: ignore[call-overload, arg-type]


def job_names(job_overrides: Sequence[Sequence[str]], *, first: int = 0) -> list[str]:
    """Directory names for the jobs of a sweep: number, and the overrides that not all jobs share.

    >>> job_names([["model.init=bilinear", "seed=1"], ["model.init=xavier", "seed=1"]])
    ['0_init-bilinear', '1_init-xavier']
    """
    shared = _shared(job_overrides)
    names = []
    for number, overrides in enumerate(job_overrides, start=first):
        varied = [override for override in overrides if override not in shared]
        names.append("_".join([str(number), *(slug for override in varied if (slug := _slug(override)))]))
    return [_shortened(name) for name in names]


def _shared(job_overrides: Sequence[Sequence[str]]) -> set[str]:
    """Overrides of all jobs, if there are several."""
    return set.intersection(*(set(overrides) for overrides in job_overrides)) if len(job_overrides) > 1 else set()


def _slug(override: str) -> str:
    """`model.init=xavier` becomes `init-xavier`: safe in file names, unquoted on a command line and in TensorBoard."""
    key, value = split_override(override)
    pieces = re.split(r"[^A-Za-z0-9.+]+", f"{re.split('[./]', key)[-1]}-{value}")
    return "-".join(piece.strip(".") for piece in pieces if piece.strip("."))


def _shortened(name: str, *, limit: int = 80) -> str:
    """File names end at 255 bytes, and people's patience earlier; the hash keeps cut names apart."""
    if len(name) <= limit:
        return name
    return f"{name[: limit - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"

"""A sweep: run directories below one folder, executed side by side, and what sweep.json says of them."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from fcn import config as configuration
from fcn import runs
from fcn.config import Config, ConfigError
from fcn.slots import Job, State, build_slots, run_jobs
from fcn.sweepboard import Board

SWEEP = "sweep.json"


class SweepFailed(ValueError):
    """Some jobs of a sweep are not finished: how many."""


@dataclass
class Sweep:
    """The jobs of a folder, in the order of their numbers.

    Attributes:
        folder: holds a run directory per job, and sweep.json.
        overrides: as typed for the whole sweep.
        jobs: those that are in the folder.
    """

    folder: Path
    overrides: list[str]
    jobs: list[Job]

    @classmethod
    def load(cls, folder: Path, *, overrides: Sequence[str] = ()) -> Sweep:
        """The sweep of a folder as its run directories stand; one without jobs if there is none yet."""
        try:
            known = json.loads((folder / SWEEP).read_text(encoding="utf-8"))
        except FileNotFoundError:
            known = {"overrides": list(overrides), "jobs": {}}
        jobs = [_job(folder / name, entry) for name, entry in known["jobs"].items()]
        return cls(folder, known["overrides"], jobs)

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
        text = json.dumps({"overrides": self.overrides, "jobs": jobs}, indent=2)
        runs.write_text(self.folder / SWEEP, text + "\n")

    def add(self, name: str, config: Config, overrides: Sequence[str]) -> Job:
        """The job of this configuration: the one that is there already, or a new run directory.

        Raises:
            ConfigError: if the directory of that name holds another configuration.
        """
        for job in self.jobs:
            if not differing(runs.load_config(job.run_dir), config):
                return job
        self.jobs.append(make_job(self.folder / name, config, overrides))
        return self.jobs[-1]

    def execute(self, jobs: Sequence[Job], *, num_slots: int | None = None) -> None:
        """Execute those of the jobs that are not finished; then compare all there are.

        Raises:
            ConfigError: if one of them cannot be executed here.
            SystemExit: with 128 + signal, if it is stopped.
        """
        jobs = list(dict.fromkeys(jobs))  # two jobs of the same configuration are one
        waiting = [job for job in jobs if job.state is not State.finished]
        configs = {job: runs.load_config(job.run_dir) for job in waiting}
        slots = build_slots(list(configs.values()), number=num_slots)
        for job in waiting:
            job.state = State.queued
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
            finished = sum(job.state is State.finished for job in self.jobs)
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
            print(f"{self.folder}/comparison.md, .csv, .png; more by python scripts/compare.py {self.folder}")


def score(run_dir: Path) -> float:
    """Best val mIoU of a run, which is what sweepers get; NaN if it was never validated."""
    best = runs.read_summary(run_dir).get("best", {}).get("val/mean_iou")
    return math.nan if best is None else float(best)


def failure(jobs: Sequence[Job]) -> SweepFailed | None:
    """What to raise for jobs that are not all finished; None if they are."""
    unfinished = [job for job in jobs if job.state is not State.finished]
    if not unfinished:
        return None
    failed = sum(job.state is State.failed for job in unfinished)
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
    sweep = Sweep.load(folder)
    sweep.execute(sweep.jobs, num_slots=num_slots)
    if error := failure(sweep.jobs):
        raise error
    return {job.run_dir.name: score(job.run_dir) for job in sweep.jobs}


def make_job(
    run_dir: Path, config: Config, overrides: Sequence[str], *, remedy: str = "use another hydra.sweep.dir"
) -> Job:
    """The job of a directory, which is made a run directory of this configuration unless it is one already.

    Raises:
        ConfigError: with `remedy`, if it holds another configuration.
    """
    if not (run_dir / runs.CONFIG).exists():
        runs.create(run_dir, config, overrides=overrides)
    elif keys := differing(runs.load_config(run_dir), config):
        raise ConfigError(
            f"{run_dir} holds a run that differs in {', '.join(keys[:4])}; {remedy}, or leave these as they were"
        )
    return Job(run_dir, list(overrides))


def at_a_time(slots: Sequence[object]) -> str:
    return "one at a time" if len(slots) == 1 else f"{len(slots)} at a time"


def differing(one: Config, other: Config) -> list[str]:
    """Keys in which two configurations differ."""
    values = [configuration.flatten(configuration.to_container(config)) for config in (one, other)]
    return [key for key in values[1] if values[0][key] != values[1][key]]


def _job(run_dir: Path, entry: dict[str, object]) -> Job:
    """A job from its entry in sweep.json; whether it is finished is what its run says."""
    status = runs.read_summary(run_dir).get("status")
    state = State(str(entry["state"]))
    if status == State.finished:
        state = State.finished
    elif state in (State.running, State.finished):  # the driver was killed, or the run emptied
        state = State.interrupted
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
    key, _, value = override.lstrip("+~").partition("=")
    pieces = re.split(r"[^A-Za-z0-9.+]+", f"{re.split('[./]', key)[-1]}-{value}")
    return "-".join(piece.strip(".") for piece in pieces if piece.strip("."))


def _shortened(name: str, *, limit: int = 80) -> str:
    """File names end at 255 bytes, and people's patience earlier; the hash keeps cut names apart."""
    if len(name) <= limit:
        return name
    return f"{name[: limit - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"

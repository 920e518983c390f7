"""A search: an Optuna study whose trials are run directories, executed side by side, pruned, and gone on with."""

from __future__ import annotations

import contextlib
import math
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import optuna
import sqlalchemy
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.trial import FrozenTrial, Trial, TrialState

from fcn import config as configuration
from fcn import runs, sweeps
from fcn.config import Config, ConfigError
from fcn.slots import Job, State, run_jobs
from fcn.space import Entry, PrunerName, suggest, typed_values
from fcn.sweepboard import Board

STUDY = "study.db"
OWNER = ".driver"
ID = ".search-id"
"""Names the folder in the study, also where another machine calls it otherwise."""
RUN = "run"
"""User attribute of a trial: name of its run directory."""
REASON = "reason"
"""User attribute of a failed trial."""


@dataclass(frozen=True)
class Plan:
    """What is searched for, and where.

    Attributes:
        folder: of the run directories, shared by all processes that take part.
        space: entries by key; those with conditions come after what they depend on.
        fixed: overrides of all trials.
        config: that `fixed` composes.
        compose: from overrides to a run's configuration.
        trials: how many the study shall have in the end, whatever becomes of them.
        pruner: which trials are stopped early.
        storage: Optuna's URL of a database; None: study.db in the folder.
    """

    folder: Path
    space: Mapping[str, Entry]
    fixed: Sequence[str]
    config: Config
    compose: Callable[[Sequence[str]], Config]
    trials: int
    pruner: PrunerName = PrunerName.median
    storage: str | None = None


@dataclass
class _Execution:
    """A trial that this process owns as long as `owner` is open."""

    trial: Trial
    owner: contextlib.ExitStack
    epochs: int
    step: int
    read: int = 0
    pruned: bool = False


@dataclass
class Search:
    """The part of one process in a search; several may take part, also one after the other.

    A trial that is RUNNING in the study is executed by the process that has its run directory's OWNER file locked.
    Where nobody has, that process is gone, and the trial goes on here.

    Attributes:
        plan: what is searched for.
        study: Optuna's.
        jobs: run directories of this process, in the order in which they were drawn.
    """

    plan: Plan
    study: optuna.Study
    jobs: list[Job] = field(default_factory=list)
    _executions: dict[Job, _Execution] = field(default_factory=dict)

    @classmethod
    def open(cls, plan: Plan) -> Search:
        """The search of a folder, a new one if there is none.

        Raises:
            ConfigError: if the folder holds another search, or the storage cannot be used or holds that of another folder.
        """
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        storage = plan.storage or _url(plan.folder / STUDY)
        plan.folder.mkdir(parents=True, exist_ok=True)
        with runs.locked(plan.folder):
            try:
                study = optuna.create_study(
                    storage=storage,
                    study_name=f"{plan.config.name}/{plan.folder.name}",
                    direction="maximize",
                    pruner=_pruner(plan),
                    load_if_exists=True,
                )
            except Exception as error:  # of SQLAlchemy, of the database's driver, of Optuna
                reason = next(iter(str(error).splitlines()), type(error).__name__)
                raise ConfigError(f"storage (={storage}) must be a database that Optuna can open: {reason}") from error
            _check_folder(plan, study)
            _check_same(plan, study)
        return cls(plan, study)

    def run(self, slots: Sequence[Mapping[str, str]]) -> int:
        """Execute trials until the study has enough; the signal that stopped it, or 0."""
        there = sum(trial.state.is_finished() for trial in self.study.get_trials(deepcopy=False))
        done = f", {there} of them done already" if there else ""
        headline = f"search   {self.plan.folder}: {self.plan.trials} trials{done}, {sweeps.at_a_time(slots)}"
        with Board(self.plan.folder, self.jobs, headline=headline) as board:
            told: dict[Job, State] = {}

            def watch(job: Job) -> None:
                self.watch(job)
                if job.state is not told.get(job):
                    told[job] = job.state
                    board.tell(job)

            return run_jobs(self.draw(watch), slots, watch=watch)

    def draw(self, watch: Callable[[Job], None]) -> Iterator[Job]:
        """Jobs to execute: trials that nobody goes on with, then new ones, until there are enough.

        Args:
            watch: called with a job that needs no execution: its run is finished, or cannot be made.
        """
        while True:
            with self._alone():
                orphan = next(filter(self._is_orphan, self._running()), None)
                if orphan is None and len(self.study.get_trials(deepcopy=False)) >= self.plan.trials:
                    return
                job = self._prepare(self._ask() if orphan is None else Trial(self.study, orphan._trial_id))
            if job.state is State.queued:
                yield job
            else:
                watch(job)

    def watch(self, job: Job) -> None:
        """Tell the study what is new of a job; stop it where the pruner says so."""
        execution = self._executions.get(job)
        if execution is None:
            return
        self._report(job, execution)
        if job.state is not State.running:
            with self._alone():  # else another process might find it RUNNING, and in a moment nobody's
                self._settle(job, execution)

    def _alone(self) -> contextlib.AbstractContextManager[None]:
        """Of all processes that take part, one at a time decides who does what."""
        return runs.locked(self.plan.folder)

    def _running(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING])

    def _is_orphan(self, trial: FrozenTrial) -> bool:
        name = trial.user_attrs.get(RUN)
        if name is None:
            return True  # who asked for it died before it could be executed
        if any(job.run_dir.name == name for job in self._executions):
            return False
        try:
            with _owning(self.plan.folder / name):
                return True
        except ConfigError:
            return False

    def _ask(self) -> Trial:
        """A new trial. A sampler of its own makes its values the same, however often the search was stopped before."""
        number = len(self.study.get_trials(deepcopy=False))
        seed = np.random.SeedSequence([self.plan.config.seed, number]).generate_state(1)[0]
        with warnings.catch_warnings():
            # Optuna's own way to sample entries with conditions jointly, experimental since 2.8.
            warnings.filterwarnings("ignore", ".*group", optuna.exceptions.ExperimentalWarning)
            self.study.sampler = optuna.samplers.TPESampler(seed=int(seed), multivariate=True, group=True)
        return self.study.ask()

    def _prepare(self, trial: Trial) -> Job:
        """The job of a trial, with a run directory that is owned; settled if there is nothing to execute."""
        texts = suggest(trial, self.plan.space, typed_values(self.plan.fixed))
        readable = [f"{key}={self.plan.space[key].rounded(text)}" for key, text in texts.items()]
        job = Job(self.plan.folder / sweeps.job_names([readable], first=trial.number)[0], readable)
        trial.set_user_attr(RUN, job.run_dir.name)
        overrides = [*self.plan.fixed, *(f"{key}={text}" for key, text in texts.items())]
        try:
            config = self.plan.compose(overrides)
        except ConfigError as error:  # values that do not go together
            job.state, job.reason = State.failed, str(error)
            self._fail(trial, job.reason)
            return job
        sweeps.make_job(job.run_dir, config, overrides, remedy="use another name=...")
        self.jobs.append(job)
        owner = contextlib.ExitStack()
        owner.enter_context(_owning(job.run_dir))
        known = self.study.get_trials(deepcopy=False)[trial.number].intermediate_values
        execution = _Execution(trial, owner, config.epochs, step=max(known, default=0))
        self._executions[job] = execution
        if runs.read_summary(job.run_dir).get("status") == State.finished:
            job.state = State.finished
            self._report(job, execution)
            self._settle(job, execution)
        return job

    def _report(self, job: Job, execution: _Execution) -> None:
        """Tell the study the scores that it does not know; stop the job if the pruner expects nothing of it."""
        path = job.run_dir / runs.METRICS
        written = path.stat().st_mtime_ns if path.exists() else 0
        if written == execution.read:
            return
        execution.read = written
        for row in runs.read_metrics(job.run_dir):
            score, step = float(row.get("val/mean_iou") or math.nan), int(row["epoch"]) + 1
            if math.isfinite(score) and step > execution.step:
                execution.trial.report(score, step)
                execution.step = step
        if job.state is State.running and 0 < execution.step < execution.epochs and execution.trial.should_prune():
            execution.pruned = True
            job.stop()

    def _settle(self, job: Job, execution: _Execution) -> None:
        """Tell the study how a job has ended. A trial that was stopped stays RUNNING, and is nobody's."""
        score = sweeps.score(job.run_dir)
        if job.state is State.finished and math.isnan(score):
            job.state, job.reason = State.failed, "the run has no validation mean IoU"
        if job.state is State.finished:
            self.study.tell(execution.trial, score)
        elif job.state is State.failed:
            self._fail(execution.trial, job.reason)
        elif execution.pruned:
            job.state = State.pruned
            self.study.tell(execution.trial, state=TrialState.PRUNED)
        execution.owner.close()
        del self._executions[job]

    def _fail(self, trial: Trial, reason: str) -> None:
        trial.set_user_attr(REASON, reason)
        self.study.tell(trial, state=TrialState.FAIL)


def _url(path: Path) -> str:
    """Of a database file; a folder may have any name."""
    return sqlalchemy.URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)


def _owning(run_dir: Path) -> contextlib.AbstractContextManager[None]:
    run_dir.mkdir(parents=True, exist_ok=True)
    return runs.locked(run_dir, name=OWNER, patience=0)


def _pruner(plan: Plan) -> BasePruner:
    if plan.pruner is PrunerName.hyperband:
        return HyperbandPruner(min_resource=1, max_resource=max(1, plan.config.epochs))
    return MedianPruner() if plan.pruner is PrunerName.median else NopPruner()


def _check_folder(plan: Plan, study: optuna.Study) -> None:
    """A database knows a search by its name, which those of two checkouts may have; run directories are in one."""
    path = plan.folder / ID
    if not path.exists():
        runs.write_text(path, uuid.uuid4().hex)
    own = path.read_text(encoding="utf-8")
    if "folder" not in study.user_attrs:
        study.set_user_attr("folder", own)
    elif study.user_attrs["folder"] != own:
        raise ConfigError(
            f"storage (={plan.storage}) holds the search of another folder; use another name=... or storage=..."
        )


def _check_same(plan: Plan, study: optuna.Study) -> None:
    """A study of two spaces, or of two settings, would compare what cannot be compared."""
    space = {key: asdict(entry) for key, entry in plan.space.items()}
    wanted = {**configuration.flatten(configuration.to_container(plan.config)), "search": space}
    known = study.user_attrs.get("settings")
    if known is None:
        study.set_user_attr("settings", wanted)
    elif keys := [key for key in {**known, **wanted} if known.get(key) != wanted.get(key)]:
        raise ConfigError(
            f"{plan.folder} holds a search that differs in {', '.join(keys[:4])}; use another name=..., or leave these "
            "as they were"
        )


def importances(study: optuna.Study) -> dict[str, float]:
    """Share of each entry in the differences between finished trials, largest first; empty with fewer than two."""
    finished = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    return optuna.importance.get_param_importances(study) if len(finished) > 1 else {}

"""A search: an Optuna study whose trials are run directories, executed side by side, pruned, and gone on with."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import optuna
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from fcn import runs
from fcn.config import ConfigError
from fcn.execution import sweeps
from fcn.execution.job_names import job_names
from fcn.execution.jobs import Job, run_jobs
from fcn.execution.search_space import suggest
from fcn.execution.search_study import RUN, Plan, latest, open_study
from fcn.execution.sweep_table import SweepTable
from fcn.runs import Status

OWNER = ".driver"
REASON = "reason"
"""User attribute of a failed trial."""
HOPELESS = 3
"""Failures without anything else after which a process draws no more trials."""


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
        given_up: why this process drew no more trials although there are not enough; empty otherwise.
    """

    plan: Plan
    study: optuna.Study
    jobs: list[Job] = field(default_factory=list)
    given_up: str = ""
    _failed: list[FrozenTrial] = field(default_factory=list)
    _executions: dict[Job, _Execution] = field(default_factory=dict)

    @classmethod
    def open(cls, plan: Plan) -> Search:
        """The search of a folder, a new one if there is none.

        Raises:
            ConfigError: if the folder holds another search, or the storage cannot be used.
        """
        study = open_study(plan)
        failed = [trial for trial in latest(study) if trial.state is TrialState.FAIL and RUN in trial.user_attrs]
        return cls(plan, study, _failed=failed)

    def run(self, slots: Sequence[Mapping[str, str]]) -> int:
        """Execute trials until the study has enough; the signal that stopped it, or 0."""
        there = sum(trial.state.is_finished() for trial in latest(self.study)) - len(self._failed)
        done = f", {there} of them done already" if there else ""
        done += f", {len(self._failed)} that failed are done again" if self._failed else ""
        headline = f"search   {self.plan.folder}: {self.plan.trials} trials{done}, {sweeps.at_a_time(slots)}"
        with SweepTable(self.plan.folder, self.jobs, headline=headline) as table:

            def watch(job: Job) -> None:
                self.watch(job)
                table.report(job)

            return run_jobs(self.draw(watch), slots, watch=watch)

    def draw(self, watch: Callable[[Job], None]) -> Iterator[Job]:
        """Jobs to execute: trials that nobody goes on with, then new ones until there are enough, then failed ones.

        What had failed before this process is executed once more, for the reason may be gone. Ends early where all
        executions of this process fail.

        Args:
            watch: called with a job that needs no execution: its run is finished, or cannot be made.
        """
        while True:
            with self._alone():
                orphan = next(filter(self._is_orphan, self._running()), None)
                enough = orphan is None and len(latest(self.study)) >= self.plan.trials
                if self._is_hopeless() or (enough and not self._failed):
                    return
                if enough:
                    self._redo(self._failed.pop(0))
                    continue
                job = self._prepare(self._ask() if orphan is None else Trial(self.study, orphan._trial_id))
            if job.state is Status.queued:
                yield job
            else:
                watch(job)

    def watch(self, job: Job) -> None:
        """Tell the study what is new of a job; stop it where the pruner says so."""
        execution = self._executions.get(job)
        if execution is None:
            return
        self._report(job, execution)
        if job.state is not Status.running:
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

    def _is_hopeless(self) -> bool:
        ended = [job for job in self.jobs if job.state not in (Status.queued, Status.running, Status.interrupted)]
        if len(ended) >= HOPELESS and all(job.state is Status.failed for job in ended):
            self.given_up = f"the first {len(ended)} trials failed, {ended[0].run_dir}: {ended[0].reason}"
        return bool(self.given_up)

    def _redo(self, trial: FrozenTrial) -> None:
        """Add one that is nobody's, of the same run directory, unless another process has done so."""
        if trial.number in (known.number for known in latest(self.study)):
            again = create_trial(
                state=TrialState.RUNNING,
                params=trial.params,
                distributions=trial.distributions,
                user_attrs={RUN: trial.user_attrs[RUN]},
            )
            self.study.add_trial(again)

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
        texts = suggest(trial, self.plan.space, self.plan.values())
        readable = [f"{key}={self.plan.space[key].rounded(text)}" for key, text in texts.items()]
        name = trial.user_attrs.get(RUN) or job_names([readable], first=trial.number)[0]
        job = Job(self.plan.folder / name, readable)
        overrides = [*self.plan.fixed, *(f"{key}={text}" for key, text in texts.items())]
        try:
            config = self.plan.compose(overrides)
        except ConfigError as error:  # values that do not go together
            job.state, job.reason = Status.failed, str(error)
            self._fail(trial, job.reason)
            return job
        trial.set_user_attr(RUN, name)
        sweeps.make_job(job.run_dir, config, overrides, remedy="use another name=...")
        self.jobs.append(job)
        owner = contextlib.ExitStack()
        owner.enter_context(_owning(job.run_dir))
        known = self.study.get_trials(deepcopy=False)[trial.number].intermediate_values
        execution = _Execution(trial, owner, config.epochs, step=max(known, default=0))
        self._executions[job] = execution
        if runs.read_status(job.run_dir) is Status.finished:
            job.state = Status.finished
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
        if job.state is Status.running and 0 < execution.step < execution.epochs and execution.trial.should_prune():
            execution.pruned = True
            job.stop()

    def _settle(self, job: Job, execution: _Execution) -> None:
        """Tell the study how a job has ended. A trial that was stopped stays RUNNING, and is nobody's."""
        score = sweeps.best_score(job.run_dir)
        if job.state is Status.finished and math.isnan(score):
            job.state, job.reason = Status.failed, "the run has no validation mean IoU"
        if job.state is Status.finished:
            self.study.tell(execution.trial, score)
        elif job.state is Status.failed:
            self._fail(execution.trial, job.reason)
        elif execution.pruned:
            job.state = Status.pruned
            self.study.tell(execution.trial, state=TrialState.PRUNED)
        execution.owner.close()
        del self._executions[job]

    def _fail(self, trial: Trial, reason: str) -> None:
        trial.set_user_attr(REASON, reason)
        self.study.tell(trial, state=TrialState.FAIL)


def _owning(run_dir: Path) -> contextlib.AbstractContextManager[None]:
    run_dir.mkdir(parents=True, exist_ok=True)
    return runs.locked(run_dir, name=OWNER, patience=0)

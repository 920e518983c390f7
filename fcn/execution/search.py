"""A search: chooses the next Optuna trial, executes trials concurrently as run directories, prunes and resumes them."""

from __future__ import annotations

import contextlib
import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import optuna
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from fcn import runs
from fcn.config import Config, ConfigError
from fcn.execution import sweeps
from fcn.execution.job_names import job_names
from fcn.execution.jobs import Job, run_jobs
from fcn.execution.search_locks import is_abandoned, owns_trial, search_lock, trial_lock
from fcn.execution.search_plan import SearchPlan
from fcn.execution.search_space import suggest_values
from fcn.execution.study_storage import REASON, RUN, continue_trial, list_trials, open_study
from fcn.execution.sweep_table import SweepTable
from fcn.runs import Status


@dataclass
class _OwnedTrial:
    """A trial that this process executes.

    Attributes:
        trial: trial of the study.
        owner: context that holds `trial_lock` until it is closed.
        config: configuration of the run.
        last_row: last row of metrics.csv, from 1, whose score has been reported to the study.
        modified: time at which metrics.csv was modified before it was last read, in ns.
        pruned: whether the job has been stopped by the pruner.
    """

    trial: Trial
    owner: contextlib.ExitStack
    config: Config
    last_row: int
    modified: int = 0
    pruned: bool = False


@dataclass
class Search:
    """The share of one process in a search; several processes may work on it at once or one after the other.

    A process that executes a trial holds the `trial_lock` of its run directory. A trial that is RUNNING in the study
    and whose process has ended is resumed by this process.

    Attributes:
        plan: plan of the search.
        study: Optuna study.
        jobs: jobs of this process, in the order in which they were started.
    """

    plan: SearchPlan
    study: optuna.Study
    jobs: list[Job] = field(default_factory=list)
    _storage: BaseStorage = field(kw_only=True)
    _owned: dict[Job, _OwnedTrial] = field(default_factory=dict)

    @classmethod
    def open(cls, plan: SearchPlan) -> Search:
        """Open the search of the plan's folder, or start a new one.

        Raises:
            ConfigError: if the folder contains a different search, or the storage cannot be used.
        """
        study, storage = open_study(plan)
        return cls(plan, study, _storage=storage)

    def run(self, slots: Sequence[Mapping[str, str]]) -> int:
        """Execute trials until the study has enough; return the signal that stopped the search, or 0."""
        num_done = sum(trial.state.is_finished() for trial in list_trials(self.study))
        done = f", {num_done} of them finished already" if num_done else ""
        headline = f"search   {self.plan.folder}: {self.plan.trials} trials{done}, {sweeps.at_a_time(slots)}"
        with SweepTable(self.plan.folder, self.jobs, headline=headline) as table:

            def watch(job: Job) -> None:
                self.update(job)
                table.report(job)

            try:
                return run_jobs(self.next_jobs(watch), slots, watch=watch)
            finally:
                for owned in self._owned.values():  # only after an exception; the jobs have ended
                    owned.owner.close()

    def next_jobs(self, watch: Callable[[Job], None]) -> Iterator[Job]:
        """Yield jobs to execute: abandoned trials, then new trials until there are enough.

        Args:
            watch: function that is called with a job that needs no execution, because its run is finished or its
                configuration is invalid.
        """
        while True:
            with search_lock(self.plan):
                abandoned = next(filter(self._is_abandoned, list_trials(self.study, TrialState.RUNNING)), None)
                if abandoned is None and len(list_trials(self.study)) >= self.plan.trials:
                    return
                job = self._make_job(self._next_trial(abandoned))
            if job.state is Status.queued:
                yield job
            else:
                watch(job)

    def update(self, job: Job) -> None:
        """Report new scores and the end of a job to the study; stop the job if the pruner decides so."""
        owned = self._owned.get(job)
        if owned is None:
            return
        self._report_scores(job, owned)
        if job.state is not Status.running:
            with search_lock(self.plan):  # otherwise another process could consider the trial abandoned
                self._report_end(job, owned)

    def _is_abandoned(self, trial: FrozenTrial) -> bool:
        name = trial.user_attrs.get(RUN)
        if name is None:
            return True  # its process ended before it could create the run directory
        return all(job.run_dir.name != name for job in self._owned) and is_abandoned(self.plan.folder / name)

    def _next_trial(self, abandoned: FrozenTrial | None = None) -> Trial:
        """Return an abandoned trial or a new one. Its number seeds the sampler: stops do not change suggestions."""
        number = len(list_trials(self.study)) if abandoned is None else abandoned.number
        seed = np.random.SeedSequence([self.plan.config.seed, number]).generate_state(1)[0]
        with warnings.catch_warnings():
            # Optuna's only option to sample conditional entries jointly, experimental since 2.8.
            warnings.filterwarnings("ignore", ".*group", optuna.exceptions.ExperimentalWarning)
            self.study.sampler = optuna.samplers.TPESampler(seed=int(seed), multivariate=True, group=True)
        return self.study.ask() if abandoned is None else continue_trial(self.study, self._storage, number)

    def _make_job(self, trial: Trial) -> Job:
        """Return the job of a trial. Unless it is queued, its end has been reported and it needs no execution."""
        values = suggest_values(trial, self.plan.space, self.plan.fixed_values())
        rounded = [f"{key}={self.plan.space[key].rounded(text)}" for key, text in values.items()]
        name = trial.user_attrs.get(RUN) or job_names([rounded], first=trial.number)[0]
        job = Job(self.plan.folder / name, rounded)
        overrides = [*self.plan.fixed, *(f"{key}={text}" for key, text in values.items())]
        try:
            config = self.plan.compose(overrides)
        except ConfigError as error:  # values that cannot be combined
            self._report_failure(trial, str(error))
            job.state, job.reason = Status.failed, str(error)
            return job
        trial.set_user_attr(RUN, name)
        sweeps.make_job(job.run_dir, config, overrides, remedy="use another name=...")
        self.jobs.append(job)
        owner = contextlib.ExitStack()
        owner.enter_context(trial_lock(job.run_dir))
        reported = list_trials(self.study)[trial.number].intermediate_values
        self._owned[job] = owned = _OwnedTrial(trial, owner, config, last_row=max(reported, default=0))
        if runs.read_status(job.run_dir) is Status.finished:
            job.state = Status.finished
            self._report_scores(job, owned)
            self._report_end(job, owned)
        return job

    def _report_scores(self, job: Job, owned: _OwnedTrial) -> None:
        path = job.run_dir / runs.METRICS
        modified = path.stat().st_mtime_ns if path.exists() else 0
        if modified == owned.modified:
            return
        owned.modified = modified
        if not owns_trial(job.run_dir):  # another process has resumed it
            job.kill()
            return
        rows = runs.read_metrics(job.run_dir)
        for number, row in enumerate(rows, start=1):
            score = float(row.get("val/mean_iou") or math.nan)
            if math.isfinite(score) and number > owned.last_row:
                owned.trial.report(score, number)
                owned.last_row = number
        if job.state is Status.running and owned.last_row:
            done, total = runs.progress(rows[owned.last_row - 1], owned.config)
            if done < total and owned.trial.should_prune():
                owned.pruned = True
                job.stop()

    def _report_end(self, job: Job, owned: _OwnedTrial) -> None:
        """Report how a job has ended, unless another process has resumed its trial, and release its lock."""
        if owns_trial(job.run_dir):
            self._tell(job, owned)
        else:
            job.state = Status.interrupted
        owned.owner.close()
        del self._owned[job]

    def _tell(self, job: Job, owned: _OwnedTrial) -> None:
        """Report how a job has ended. The trial of an interrupted job stays RUNNING."""
        score = runs.best_score(job.run_dir)
        if job.state is Status.finished and math.isnan(score):
            job.state, job.reason = Status.failed, "the run has no validation mean IoU"
        if job.state is Status.finished:
            self.study.tell(owned.trial, score)
        elif job.state is Status.failed:
            self._report_failure(owned.trial, job.reason)
        elif owned.pruned:
            job.state = Status.pruned
            self.study.tell(owned.trial, state=TrialState.PRUNED)

    def _report_failure(self, trial: Trial, reason: str) -> None:
        trial.set_user_attr(REASON, reason)
        self.study.tell(trial, state=TrialState.FAIL)

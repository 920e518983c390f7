"""Results of a search: table of the best trials, trials.csv, figures, and the command that repeats the best trial."""

from __future__ import annotations

import csv
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from optuna import Study
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from rich.table import Table

from fcn.errors import UserError
from fcn.execution.search_plan import SearchPlan
from fcn.execution.search_space import suggest_values
from fcn.execution.study_storage import REASON, RUN, list_trials, parameter_importances
from fcn.runs.atomic_files import replacing
from fcn.visualization.png_files import save_png
from fcn.visualization.search_figures import EndedTrial, draw_importances, draw_trial_history

TABLE_ROWS = 10
STATE_LABELS = {
    TrialState.COMPLETE: "finished",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.RUNNING: "running or stopped",
}


class SearchFailed(UserError):
    """Raised if all trials of a search failed; the message states the reason of the first failure."""


def report_search(plan: SearchPlan, study: Study, console: Console) -> None:
    """Write trials.csv and the figures, print the best trials and the command that repeats the best one."""
    trials, importances = list_trials(study), parameter_importances(study)
    _write_csv(plan.folder / "trials.csv", trials, list(plan.space))
    _draw_figures(plan.folder, trials, importances)
    finished = sorted(list_trials(study, TrialState.COMPLETE), key=lambda trial: trial.value or 0.0, reverse=True)
    counts = {label: len(list_trials(study, state)) for state, label in STATE_LABELS.items()}
    caption = ", ".join(f"{count} {label}" for label, count in counts.items() if count)
    console.print(_build_table(plan, finished[:TABLE_ROWS], caption))
    lines = [f"written  {plan.folder}: study, trials.csv, figures, a run directory per trial"]
    if finished:
        if importances:
            shares = (f"{key} {100 * share:.0f} %" for key, share in importances.items())
            lines.append(f"impact   {', '.join(shares)}")
        best = finished[0]
        run_dir = plan.folder / best.user_attrs[RUN]
        lines += [f"best     {run_dir}, val mIoU {best.value:.3f}; to train it again:", _train_command(plan, best)]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def check_search_succeeded(study: Study) -> None:
    """Raise SearchFailed with the reason of the first trial if all trials failed."""
    failed = list_trials(study, TrialState.FAIL)
    if failed and len(failed) == len(list_trials(study)):
        reason = failed[0].user_attrs[REASON]
        raise SearchFailed(f"all {len(failed)} trials failed, the first one with: {reason}; use another name=...")


def _train_command(plan: SearchPlan, trial: FrozenTrial) -> str:
    """Return the command, quoted for a shell, that trains with the settings of a trial."""
    values = suggest_values(trial, plan.space, plan.fixed_values())
    return f"python train.py {shlex.join([*plan.fixed, *(f'{key}={text}' for key, text in values.items())])}"


def _build_table(plan: SearchPlan, trials: Sequence[FrozenTrial], caption: str) -> Table:
    table = Table("trial", title=str(plan.folder), caption=caption, title_justify="left", caption_justify="left")
    for key in plan.space:
        table.add_column(key, overflow="fold")
    table.add_column("best val mIoU", justify="right")
    for trial in trials:
        values = (plan.space[key].rounded(str(trial.params[key])) if key in trial.params else "-" for key in plan.space)
        table.add_row(str(trial.number), *values, f"{trial.value:.3f}")
    return table


def _write_csv(path: Path, trials: Sequence[FrozenTrial], keys: Sequence[str]) -> None:
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["trial", "state", "val/mean_iou", *keys, "seconds", RUN, REASON])
        writer.writeheader()
        for trial in trials:
            state, seconds = trial.state.name.lower(), trial.duration and round(trial.duration.total_seconds(), 1)
            row = {"trial": trial.number, "state": state, "val/mean_iou": trial.value, "seconds": seconds}
            writer.writerow({**row, **trial.params, **{name: trial.user_attrs.get(name) for name in (RUN, REASON)}})


def _draw_figures(folder: Path, trials: Sequence[FrozenTrial], importances: Mapping[str, float]) -> None:
    ended = [trial for trial in trials if trial.state.is_finished()]
    if ended:
        points = [EndedTrial(trial.number, trial.value, trial.state is TrialState.PRUNED) for trial in ended]
        save_png(draw_trial_history(points), folder / "history.png")
    if importances:
        num_finished = sum(trial.state is TrialState.COMPLETE for trial in trials)
        save_png(draw_importances(importances, num_trials=num_finished), folder / "importance.png")

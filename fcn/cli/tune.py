"""Searches for the settings of the best validation mIoU; every trial is a run directory.

    python scripts/tune.py epochs=5 model=fcn8s search=default trials=30

The same command again goes on where it stopped; typed in two terminals, it shares the work.
"""

from __future__ import annotations

import csv
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from fcn.cli import train
from fcn.cli.hydra_entry import run_command
from fcn.config import Config, ConfigError, setting, typed
from fcn.config.overrides import dotted_key, split_override, values_by_key
from fcn.errors import UserError
from fcn.execution.device_slots import build_slots
from fcn.execution.search_space import PrunerName, parse, probe, suggest
from fcn.runs.atomic_files import replacing

if TYPE_CHECKING:
    from optuna import Study
    from optuna.trial import FrozenTrial

    from fcn.execution.search_study import Plan

SHOWN = 10


@dataclass(kw_only=True, slots=True)
class TuneConfig(Config):
    search: dict[str, Any] = field(
        default_factory=lambda: DictConfig({}, flags={"struct": False}),  # type: ignore[arg-type,return-value]  # open to new keys
        metadata=setting({}, "search=<option>: what is searched over; search.<key>={choices: [a,b]} adds").metadata,
    )
    trials: int = setting(30, "trials that there shall be in the end, finished, pruned or failed", low=1)
    slots: int | None = setting(None, "at a time; null: as many as the GPUs are enough for, or one on the CPU", low=1)
    pruner: PrunerName = setting(PrunerName.median, "which trials are stopped early: median, hyperband, none")
    storage: str | None = setting(None, "database, an Optuna URL; null: study.db beside the trials")


class SearchFailed(UserError):
    """Nothing but failures: the reason of the first one."""


OWN = {"search", "trials", "slots", "pruner", "storage"}


def prepare(config: TuneConfig, overrides: Sequence[str], option: str) -> tuple[Plan, list[dict[str, str]]]:
    """The plan of a search and its slots, with everything checked that can be before the first trial.

    Args:
        config: as composed.
        overrides: what was typed.
        option: of the group search.

    Raises:
        ConfigError: if a key, a value or an entry of the search space is wrong, or Optuna is not installed.
    """
    if config.resume is not None:
        raise ConfigError(f"resume (={config.resume}) must be left out; the same command again goes on with a search")
    fixed = [override for override in overrides if split_override(override)[0].partition(".")[0] not in OWN]
    known = values_by_key(fixed)  # what is typed is not searched over
    space = {key: entry for key, entry in parse(config.search, overrides).items() if dotted_key(key) not in known}
    if not space:
        raise ConfigError(f"search={option} must have an entry whose key is not typed; leave one out")
    base = train.compose(*fixed)
    slots = build_slots([base, *probe(space, lambda some: train.compose(*fixed, *some))], number=config.slots)
    plan = _search().Plan(
        folder=Path("outputs", base.name, f"tune-{option}"),
        space=space,
        fixed=fixed,
        config=base,
        compose=lambda typed_: train.compose(*typed_),
        trials=config.trials,
        pruner=config.pruner,
        storage=config.storage,
    )
    return plan, slots


def _search() -> Any:
    """fcn.execution.search, which needs Optuna."""
    try:
        from fcn.execution import search
    except ModuleNotFoundError as error:
        if error.name != "optuna":
            raise
        raise ConfigError('tune.py needs Optuna; use pip install -e ".[tune]"') from error
    return search


def command(plan: Plan, trial: FrozenTrial) -> str:
    """The line that trains as a trial does, ready to be pasted."""
    texts = suggest(trial, plan.space, plan.values())
    settings = [*plan.fixed, *(f"{key}={text}" for key, text in texts.items())]
    return f"python train.py {shlex.join(settings)}"


def report(plan: Plan, study: Study, console: Console) -> None:
    """Write tables and pictures, print the best trials and, last, the command of the best one."""
    from fcn.execution.search_study import importances, latest

    trials, shares = latest(study), importances(study)
    _write_trials(plan.folder / "trials.csv", trials, list(plan.space))
    _draw(plan.folder, trials, shares)
    finished = sorted(_in_state(trials, "COMPLETE"), key=_score, reverse=True)
    counts = {name: len(_in_state(trials, name)) for name in ("COMPLETE", "PRUNED", "FAIL", "RUNNING")}
    words = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed", "RUNNING": "running or stopped"}
    console.print(_table(finished[:SHOWN], plan, ", ".join(f"{n} {words[name]}" for name, n in counts.items() if n)))
    for line in by_choice(plan, trials):
        _print(console, f"choices  {line}")
    _print(console, f"written  {plan.folder}: study, trials.csv, pictures, a run directory per trial")
    if finished:
        if shares:
            _print(console, "matters  " + ", ".join(f"{key} {100 * share:.0f} %" for key, share in shares.items()))
        best = plan.folder / finished[0].user_attrs["run"]
        _print(console, f"best     {best}, val mIoU {finished[0].value:.3f}; trained again by")
        _print(console, command(plan, finished[0]))


def by_choice(plan: Plan, trials: Sequence[FrozenTrial]) -> list[str]:
    """For every entry with choices a line: best score of each, and how many trials it was given, pruned ones too."""
    lines = []
    ended = [*_in_state(trials, "COMPLETE"), *_in_state(trials, "PRUNED")]
    for key, entry in plan.space.items():
        with_choice = {text: [trial for trial in ended if trial.params.get(key) == text] for text in entry.ends()}
        words = [f"{text} {_best(some)} in {len(some)}" for text, some in with_choice.items()]
        if entry.choices and ended:
            lines.append(f"{key}: {', '.join(words)} trials")
    return lines


def _best(trials: Sequence[FrozenTrial]) -> str:
    finished = _in_state(trials, "COMPLETE")
    return f"{max(map(_score, finished)):.3f}" if finished else "-"


def _score(trial: FrozenTrial) -> float:
    return -math.inf if trial.value is None else trial.value


def check_any_good(study: Study, *, given_up: str = "") -> None:
    """A search all of whose trials failed has failed, and so has one that was given up for this reason.

    Raises:
        SearchFailed: with the reason of the first trial.
    """
    from fcn.execution.search_study import latest

    if given_up:
        raise SearchFailed(f"{given_up}; the same command goes on, and does failed trials again")
    trials = latest(study)
    if trials and len(failed := _in_state(trials, "FAIL")) == len(trials):
        raise SearchFailed(f"all {len(failed)} trials failed, the first one: {failed[0].user_attrs['reason']}")


def _in_state(trials: Sequence[FrozenTrial], name: str) -> list[FrozenTrial]:
    return [trial for trial in trials if trial.state.name == name]


def _print(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def _table(best: Sequence[FrozenTrial], plan: Plan, caption: str) -> Table:
    table = Table("trial", title=str(plan.folder), caption=caption, title_justify="left", caption_justify="left")
    for key in plan.space:
        table.add_column(key, overflow="fold")
    table.add_column("best val mIoU", justify="right")
    for trial in best:
        values = (plan.space[key].rounded(str(trial.params[key])) if key in trial.params else "-" for key in plan.space)
        table.add_row(str(trial.number), *values, f"{trial.value:.3f}")
    return table


def _write_trials(path: Path, trials: Sequence[FrozenTrial], keys: Sequence[str]) -> None:
    with replacing(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["trial", "state", "val/mean_iou", *keys, "seconds", "run", "reason"])
        writer.writeheader()
        writer.writerows(_row(trial) for trial in trials)


def _row(trial: FrozenTrial) -> Mapping[str, Any]:
    return {
        "trial": trial.number,
        "state": trial.state.name.lower(),
        "val/mean_iou": trial.value,
        **trial.params,
        "seconds": round(trial.duration.total_seconds(), 1) if trial.duration else None,
        "run": trial.user_attrs.get("run"),
        "reason": trial.user_attrs.get("reason"),
    }


def _draw(folder: Path, trials: Sequence[FrozenTrial], shares: Mapping[str, float]) -> None:
    from fcn.visualization.png_files import save_png
    from fcn.visualization.search_figures import EndedTrial, draw_importances, draw_trial_history

    ended = [trial for trial in trials if trial.state.is_finished()]
    if ended:
        points = [EndedTrial(trial.number, trial.value, trial.state.name == "PRUNED") for trial in ended]
        save_png(draw_trial_history(points), folder / "history.png")
    if shares:
        finished = len(_in_state(trials, "COMPLETE"))
        save_png(draw_importances(shares, num_trials=finished), folder / "importance.png")


def tune(composed: DictConfig) -> None:
    """Hydra's task."""
    settings = HydraConfig.get()
    plan, slots = prepare(typed(composed, TuneConfig), settings.overrides.task, settings.runtime.choices["search"])
    search = _search().Search.open(plan)
    number = search.run(slots)
    console = Console()
    report(plan, search.study, console)
    if number:
        _print(console, "stopped: the same command goes on")
        raise SystemExit(128 + number)
    check_any_good(search.study, given_up=search.given_up)


def main() -> None:
    run_command(tune, config_name="tune", schema=TuneConfig)

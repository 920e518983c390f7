"""The plan of a search: its configuration, search space, fixed overrides and folder.

Imports neither torch nor Optuna.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from fcn.config import Config, ConfigError, flatten, setting, to_container
from fcn.config.choices import Choice
from fcn.config.overrides import dotted_key, split_override, values_by_key
from fcn.execution.device_slots import build_slots
from fcn.execution.search_space import Entry, check_composition, parse_space


class PrunerName(Choice):
    median = "median"
    hyperband = "hyperband"
    none = "none"


@dataclass(kw_only=True, slots=True)
class TuneConfig(Config):
    """Configuration of scripts/tune.py: the keys of a run, which all trials share, and those of the search."""

    search: dict[str, Any] = field(
        default_factory=lambda: DictConfig({}, flags={"struct": False}),  # type: ignore[arg-type,return-value]  # open to new keys
        metadata=setting({}, "search space: search=<option>; search.<key>={choices: [a,b]} adds an entry").metadata,
    )
    trials: int = setting(30, "total number of trials: finished, pruned and failed", low=1)
    slots: int | None = setting(None, "concurrent trials; null: as many as the GPUs suffice for, one on the CPU", low=1)
    slots_per_gpu: int = setting(1, "concurrent trials for which a GPU suffices; without effect on the CPU", low=1)
    pruner: PrunerName = setting(PrunerName.median, "rule that stops trials early: median, hyperband, none")
    storage: str | None = setting(
        None,
        "null: study.db in the search's folder, for one machine; journal: a file there for several machines that share "
        "the folder; or the URL of a database that Optuna can open",
    )


JOURNAL = "journal"
SEARCH_KEYS = {entry.name for entry in fields(TuneConfig)} - {entry.name for entry in fields(Config)}


@dataclass(frozen=True)
class SearchPlan:
    """Definition of a search.

    Attributes:
        folder: folder of the run directories, shared by all processes of the search.
        space: entries by key; an entry with a condition follows the entry that the condition refers to.
        fixed: overrides of all trials.
        config: configuration composed from `fixed`.
        compose: function from overrides to the configuration of a run.
        trials: total number of trials: finished, pruned and failed.
        pruner: rule that stops trials early.
        storage: `JOURNAL` for a file in the folder that several machines share, or the URL of a database; None:
            study.db in the folder.
    """

    folder: Path
    space: Mapping[str, Entry]
    fixed: Sequence[str]
    config: Config
    compose: Callable[[Sequence[str]], Config]
    trials: int
    pruner: PrunerName = PrunerName.median
    storage: str | None = None

    def fixed_values(self) -> dict[str, Any]:
        """Return the values that all trials share: groups as text, keys as composed."""
        return {**values_by_key(self.fixed), **flatten(to_container(self.config))}


def plan_search(
    config: TuneConfig, overrides: Sequence[str], *, option: str, compose: Callable[[Sequence[str]], Config]
) -> tuple[SearchPlan, list[dict[str, str]]]:
    """Return the plan of a search and its slots, after all checks that are possible before the first trial.

    Args:
        config: configuration of the command.
        overrides: overrides of the command line.
        option: chosen option of the group `search`.
        compose: function from overrides to the configuration of a run.

    Raises:
        ConfigError: if a key, a value or an entry of the search space is invalid.
    """
    if config.resume is not None:
        raise ConfigError(f"resume (={config.resume}) must be omitted; the same command resumes a search")
    fixed = [override for override in overrides if split_override(override)[0].partition(".")[0] not in SEARCH_KEYS]
    fixed_keys = values_by_key(fixed)
    entries = parse_space(config.search, overrides)
    space = {key: entry for key, entry in entries.items() if dotted_key(key) not in fixed_keys}
    if not space:
        raise ConfigError(f"search={option} must have an entry whose key is not overridden; omit one override")
    base = compose(fixed)
    configs = check_composition(space, lambda varied: compose([*fixed, *varied]))
    slots = build_slots([base, *configs], number=config.slots, per_gpu=config.slots_per_gpu)
    plan = SearchPlan(
        folder=Path("outputs", base.name, f"tune-{option}"),
        space=space,
        fixed=fixed,
        config=base,
        compose=compose,
        trials=config.trials,
        pruner=config.pruner,
        storage=config.storage,
    )
    return plan, slots

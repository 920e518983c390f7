"""What a search is for, and Optuna's study of it: opened in its folder, checked, and read."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.trial import FrozenTrial, TrialState

from fcn import config as configuration
from fcn import runs
from fcn.config import Config, ConfigError
from fcn.config.overrides import values_by_key
from fcn.execution.search_space import Entry, PrunerName

STUDY = "study.db"
ID = ".search-id"
"""Names the folder in the study, also where another machine calls it otherwise."""
RUN = "run"
"""User attribute of a trial that was executed: name of its run directory. Of several with the same, the last counts."""


@dataclass(frozen=True)
class Plan:
    """What is searched for, and where.

    Attributes:
        folder: of the run directories, shared by all processes that take part.
        space: entries by key; those with conditions come after what they depend on.
        fixed: overrides of all trials.
        config: that `fixed` composes.
        compose: from overrides to a run's configuration.
        trials: how many the study shall have in the end, whatever becomes of them; one that is redone counts once.
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

    def values(self) -> dict[str, Any]:
        """What all trials have in common: the groups as they were typed, the keys as they are composed."""
        return {**values_by_key(self.fixed), **configuration.flatten(configuration.to_container(self.config))}


def open_study(plan: Plan) -> optuna.Study:
    """The study of a folder, a new one if there is none.

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
    return study


def latest(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that count: without those that failed and were done again."""
    trials = study.get_trials(deepcopy=False)
    last = {trial.user_attrs.get(RUN, trial.number): trial for trial in trials}
    return sorted(last.values(), key=lambda trial: trial.number)


def importances(study: optuna.Study) -> dict[str, float]:
    """Share of each entry in the differences between finished trials, largest first; empty with fewer than two."""
    finished = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    return optuna.importance.get_param_importances(study) if len(finished) > 1 else {}


def _url(path: Path) -> str:
    """Of a database file; a folder may have any name."""
    return sqlalchemy.URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)


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

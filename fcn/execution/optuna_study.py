"""The Optuna study of a search: its database, pruner, trials and parameter importances."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import optuna
import sqlalchemy
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from fcn import runs
from fcn.config import ConfigError, flatten, to_container
from fcn.execution.search_plan import PrunerName, SearchPlan

STUDY = "study.db"
ID = ".search-id"
"""File with the id by which the study knows the folder, also on machines where its path differs."""
RUN = "run"
"""User attribute of an executed trial: name of its run directory. Among trials with the same name, the last counts."""
REASON = "reason"
"""User attribute of a failed trial."""


def open_study(plan: SearchPlan) -> tuple[optuna.Study, BaseStorage]:
    """Return the study of the plan's folder and its storage; a new study if there is none.

    Raises:
        ConfigError: if the folder contains a different search, or the storage cannot be opened or belongs to the search
            of another folder.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    url = plan.storage or _sqlite_url(plan.folder / STUDY)
    plan.folder.mkdir(parents=True, exist_ok=True)
    with runs.locked(plan.folder):
        try:
            storage = optuna.storages.get_storage(url)
            study = optuna.create_study(
                storage=storage,
                study_name=f"{plan.config.name}/{plan.folder.name}",
                direction="maximize",
                pruner=_build_pruner(plan),
                load_if_exists=True,
            )
        except Exception as error:  # of SQLAlchemy, of the database's driver, of Optuna
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise ConfigError(f"storage (={url}) must be a database that Optuna can open: {reason}") from error
        _check_folder(plan, study)
        _check_settings(plan, study)
    return study, storage


def continue_trial(study: optuna.Study, storage: BaseStorage, number: int) -> Trial:
    """Return a running trial whose process has ended, for this process to execute.

    `Study` has no method for it: `ask` always creates a trial. Tested with Optuna 5.0.
    """
    study_id = storage.get_study_id_from_name(study.study_name)
    return Trial(study, storage.get_trial_id_from_study_id_trial_number(study_id, number))


def latest_trials(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that count: all except failed ones that have been repeated."""
    trials = study.get_trials(deepcopy=False)
    last = {trial.user_attrs.get(RUN, trial.number): trial for trial in trials}
    return sorted(last.values(), key=lambda trial: trial.number)


def select_trials(trials: Sequence[FrozenTrial], state: TrialState) -> list[FrozenTrial]:
    return [trial for trial in trials if trial.state is state]


def parameter_importances(study: optuna.Study) -> dict[str, float]:
    """Return the share of each entry in the differences between finished trials; empty for fewer than two trials."""
    finished = study.get_trials(deepcopy=False, states=[TrialState.COMPLETE])
    return optuna.importance.get_param_importances(study) if len(finished) > 1 else {}


def _sqlite_url(path: Path) -> str:
    """Return the URL of a database file, quoted, since a folder may have any name."""
    return sqlalchemy.URL.create("sqlite", database=str(path)).render_as_string(hide_password=False)


def _build_pruner(plan: SearchPlan) -> BasePruner:
    if plan.pruner is PrunerName.hyperband:
        return HyperbandPruner(min_resource=1, max_resource=max(1, plan.config.epochs))
    return MedianPruner() if plan.pruner is PrunerName.median else NopPruner()


def _check_folder(plan: SearchPlan, study: optuna.Study) -> None:
    """Check that the study belongs to this folder: two checkouts may use one database and the same study name."""
    path = plan.folder / ID
    if not path.exists():
        runs.write_text(path, uuid.uuid4().hex)
    folder_id = path.read_text(encoding="utf-8")
    if "folder" not in study.user_attrs:
        study.set_user_attr("folder", folder_id)
    elif study.user_attrs["folder"] != folder_id:
        raise ConfigError(
            f"storage (={plan.storage}) contains the search of another folder; use another name=... or storage=..."
        )


def _check_settings(plan: SearchPlan, study: optuna.Study) -> None:
    """Check that the study has this search space and configuration; otherwise its scores would not be comparable."""
    space = {key: asdict(entry) for key, entry in plan.space.items()}
    settings = {**flatten(to_container(plan.config)), "search": space}
    stored = study.user_attrs.get("settings")
    if stored is None:
        study.set_user_attr("settings", settings)
    elif keys := [key for key in {**stored, **settings} if stored.get(key) != settings.get(key)]:
        raise ConfigError(
            f"{plan.folder} contains a search with other values of {', '.join(keys[:4])}; use another name=..., or the "
            "same values"
        )

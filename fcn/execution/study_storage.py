"""The Optuna study of a search: its database, pruner, trials and parameter importances."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import traceback
import uuid
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Literal

import optuna
import sqlalchemy
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, Trial, TrialState

from fcn import runs
from fcn.config import Config, ConfigError, flatten, to_container
from fcn.errors import RunFailure, message_line, without_credentials
from fcn.execution.search_locks import search_lock
from fcn.execution.search_plan import JOURNAL, PrunerName, SearchPlan

STUDY = "study.db"
STUDY_JOURNAL = "study.journal"
FOLDER_ID = ".search-id"
"""File that identifies the folder of a search in a shared database."""
RUN = "run"
"""User attribute of an executed trial: name of its run directory."""
REASON = "reason"
"""User attribute of a failed trial."""


def open_study(plan: SearchPlan) -> tuple[optuna.Study, BaseStorage]:
    """Return the study of the plan's folder and its storage; a new study if none exists.

    Raises:
        ConfigError: if the folder contains a different search, or the storage cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    plan.folder.mkdir(parents=True, exist_ok=True)
    with search_lock(plan):
        try:
            storage = _build_storage(plan)
            study = optuna.create_study(
                storage=storage,
                study_name=f"{plan.config.name}/{plan.folder.name}",
                direction="maximize",
                pruner=_build_pruner(plan),
                load_if_exists=True,
            )
        except Exception as error:  # of SQLAlchemy, of the database's driver, of Optuna
            if plan.storage == JOURNAL and _is_raised_by_journal(error):
                raise ConfigError(_damaged_journal(plan, error)) from error
            raise ConfigError(
                f"{_describe(plan)} must be null, journal, or the URL of a database that Optuna can open: "
                f"{_reason(error)}"
            ) from error
        _check_folder(plan, study)
        _check_settings(plan, study)
    return study, storage


def _build_storage(plan: SearchPlan) -> BaseStorage:
    if plan.storage == JOURNAL:
        path = str(plan.folder / STUDY_JOURNAL)
        return JournalStorage(JournalFileBackend(path, JournalFileOpenLock(path)))
    database = str(plan.folder / STUDY)  # the URL is quoted, since a folder may have any name
    url = plan.storage or sqlalchemy.URL.create("sqlite", database=database).render_as_string()
    if "@" in (sqlalchemy.make_url(url).host or ""):  # otherwise messages would contain the end of the password
        raise ValueError("write @ in the password as %40")
    if url.startswith("sqlite"):
        return RDBStorage(url, engine_kwargs={"connect_args": {"timeout": 60}})  # s to wait for another process
    return RDBStorage(url, engine_kwargs={"pool_pre_ping": True})  # servers close connections that are idle for hours


@contextlib.contextmanager
def explaining_storage_failures(plan: SearchPlan) -> Iterator[None]:
    """Raise RunFailure in place of an error of the storage."""
    try:
        yield
    except (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError) as error:
        raise RunFailure(f"{_describe(plan)} failed: {_reason(error)}; the same command resumes the search") from error
    except Exception as error:
        if plan.storage == JOURNAL and _is_raised_by_journal(error):
            raise RunFailure(_damaged_journal(plan, error)) from error
        raise


def _is_raised_by_journal(error: Exception) -> bool:
    """Whether Optuna's journal raised an exception, which has no type of its own if a line cannot be read."""
    modules = (frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__))
    is_of_journal = any(name.startswith("optuna.storages.journal") for name in modules)
    return is_of_journal and isinstance(error, (ValueError, LookupError, AttributeError))


def _damaged_journal(plan: SearchPlan, error: Exception) -> str:
    return (
        f"{plan.folder / STUDY_JOURNAL} must contain one JSON object per line: {_reason(error)}; a full disk can "
        "truncate a line: delete this line, and repeat the command"
    )


def _reason(error: Exception) -> str:
    """Return the message of the database's driver, if it is the cause of an error of SQLAlchemy or Optuna."""
    return message_line(str(error.__cause__ or error)) or type(error).__name__


def _describe(plan: SearchPlan) -> str:
    """Return key and value for a message; the options of a URL may contain a password, like the part before @."""
    if plan.storage is None:
        return f"storage (={plan.folder / STUDY})"
    return f"storage (={re.sub('[?].*', '?***', without_credentials(plan.storage))})"


def continue_trial(study: optuna.Study, storage: BaseStorage, number: int) -> Trial:
    """Return a running trial whose process has ended, for this process to execute.

    `Study` has no method for it: `ask` always creates a trial. Tested with Optuna 5.0.
    """
    study_id = storage.get_study_id_from_name(study.study_name)
    return Trial(study, storage.get_trial_id_from_study_id_trial_number(study_id, number))


def list_trials(study: optuna.Study, *states: TrialState) -> list[FrozenTrial]:
    """Return the trials in these states, or all trials."""
    return study.get_trials(deepcopy=False, states=states or None)


def parameter_importances(study: optuna.Study) -> dict[str, float]:
    """Return the share of each entry in the differences between finished trials; empty for fewer than two trials."""
    finished = list_trials(study, TrialState.COMPLETE)
    return optuna.importance.get_param_importances(study) if len(finished) > 1 else {}


def _build_pruner(plan: SearchPlan) -> BasePruner:
    if plan.pruner is PrunerName.hyperband:
        return HyperbandPruner(min_resource=1, max_resource=_count_rows(plan.config))
    return MedianPruner() if plan.pruner is PrunerName.median else NopPruner()


def _count_rows(config: Config) -> int | Literal["auto"]:
    """Return the number of rows in metrics.csv of a trial; with `steps` it may depend on the number of images."""
    if config.steps is None:
        return max(1, config.epochs or 0)
    interval = config.trainer.val_every_steps
    return "auto" if interval is None else -(-config.steps // interval)


def _check_folder(plan: SearchPlan, study: optuna.Study) -> None:
    """Check that study and folder belong together.

    A shared database may have a search of this name in another folder, and the folder a search in another storage.
    """
    path = plan.folder / FOLDER_ID
    if not path.exists():
        runs.write_text(path, uuid.uuid4().hex)
    identifier = path.read_text(encoding="utf-8")
    if "folder" not in study.user_attrs:
        if next(plan.folder.glob(f"*/{runs.CONFIG}"), None):
            raise ConfigError(
                f"{plan.folder} contains a search with another storage=..., or one whose study was deleted; use that "
                "storage, or another name=..."
            )
        study.set_user_attr("folder", identifier)
    elif study.user_attrs["folder"] != identifier:
        raise ConfigError(
            f"{_describe(plan)} contains a search of this name in another folder; use another name=... or storage=..."
        )


def _check_settings(plan: SearchPlan, study: optuna.Study) -> None:
    """Check that the study has this search space and configuration; otherwise its scores would not be comparable."""
    space = {key: asdict(entry) for key, entry in plan.space.items()}
    settings = {**flatten(to_container(plan.config)), "search": space}
    stored = study.user_attrs.get("settings")
    if stored is None:
        study.set_user_attr("settings", settings)
    elif keys := [key for key in {**stored, **settings} if _stored_value(key, stored, plan) != settings.get(key)]:
        raise ConfigError(
            f"{plan.folder} contains a search with other values of {', '.join(keys[:4])}; use another name=..., or the "
            "same values"
        )


def _stored_value(key: str, stored: dict[str, Any], plan: SearchPlan) -> Any:
    """Return a setting of the study; the default if the key did not exist when the search began."""
    *sections, name = key.split(".")
    owner: Any = plan.config
    for section in sections:
        owner = getattr(owner, section, None)
    if key in stored or not dataclasses.is_dataclass(owner):
        return stored.get(key)
    (entry,) = (each for each in dataclasses.fields(owner) if each.name == name)
    return entry.default if entry.default_factory is dataclasses.MISSING else entry.default_factory()

"""From what a person types to a checked configuration: Hydra's entry, its resolvers, and messages of one line.

Imports no torch: `--help` and `--cfg job` only compose.
"""

from __future__ import annotations

import functools
import json
import os
import re
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, ValidationError
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, InterpolationResolutionError

from fcn import runs
from fcn.commands import CONF, as_typed
from fcn.config import Config, ModelName, flatten, nearest, schema_fields

WANTS_TRACEBACK = os.environ.get("HYDRA_FULL_ERROR") == "1"
"""Whether the person who started this process asked for tracebacks, in Hydra's own way."""


def run_command(task: Callable[[DictConfig], Any], *, config_name: str, schema: type = Config) -> None:
    """Compose `config_name` of conf/ with the command line and hand it to `task`, once or once per sweep job.

    An exception ends the program with one line on standard error and status 1; with HYDRA_FULL_ERROR=1 in the
    environment its traceback is shown instead.
    """
    register(schema)

    @functools.wraps(task)
    def guarded(composed: DictConfig) -> Any:
        try:
            return task(composed)
        except Exception as error:
            if WANTS_TRACEBACK or HydraConfig.get().mode is RunMode.MULTIRUN:
                raise  # Hydra goes on with the other jobs of a sweep and raises it at the end
            fail(error, schema)  # at once: Hydra would first print a line of its own

    if "--help" in sys.argv or "-h" in sys.argv:
        _list_groups_quickly()
        _name_commands_as_typed()
    before = os.environ.get("HYDRA_FULL_ERROR", "0")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then lets exceptions through to us instead of printing its own
    try:
        hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(guarded)()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:
        if WANTS_TRACEBACK:
            raise
        fail(error, schema)
    finally:
        os.environ["HYDRA_FULL_ERROR"] = before


def _list_groups_quickly() -> None:
    """Have Hydra read the folders of conf/ once for --help; it would copy them anew for each of its fifty groups."""
    original = ConfigLoaderImpl._parse_overrides_and_create_caching_repo
    listings = functools.cache(lambda loader: original(loader, None, []))

    def cached(loader: ConfigLoaderImpl, config_name: str | None, overrides: list[str]) -> Any:
        return original(loader, config_name, overrides) if config_name or overrides else listings(loader)

    ConfigLoaderImpl._parse_overrides_and_create_caching_repo = cached  # type: ignore[assignment,method-assign]


def _name_commands_as_typed() -> None:
    """Have Hydra print --help in the words of an installed package, if it is one."""
    original = Hydra.get_help

    @functools.wraps(original)
    def translated(*arguments: Any, **options: Any) -> str:
        return as_typed(original(*arguments, **options))

    Hydra.get_help = translated  # type: ignore[method-assign]


def fail(error: BaseException, schema: type = Config) -> NoReturn:
    """End the program with `error` explained in one line on standard error."""
    raise SystemExit(as_typed(f"error: {explain(error, schema)}")) from None


def explain(error: BaseException, schema: type = Config) -> str:
    """One line for a person: what was wrong, what is allowed, what may have been meant."""
    cause = error.__cause__ if isinstance(error, ConfigCompositionException) and error.__cause__ else error
    if isinstance(cause, MissingConfigException):
        group, _, option = (cause.missing_cfg_file or "").rpartition("/")
        if option.startswith("submitit_"):
            return f'hydra/launcher (={option}) needs submitit; use pip install -e ".[slurm]"'
        known = cause.options or []
        return f"{group}={option} is no option of {group}{nearest(option, known)}; known: {', '.join(known)}"
    if isinstance(cause, InterpolationResolutionError):
        first = str(cause).splitlines()[0]
        return first.partition(" raised while resolving interpolation: ")[2] or first
    if isinstance(cause, (ConfigKeyError, ConfigAttributeError)) and cause.full_key:
        return _unknown_key(cause.full_key, schema)
    if isinstance(cause, ValidationError) and cause.full_key:
        return _wrong_value(cause.full_key, str(cause).splitlines()[0], schema)
    message = line_of(str(cause))
    if match := re.match(r"Could not override '([^']+)'", message):
        return _unknown_key(match[1], schema)
    if isinstance(cause, (ValueError, OSError, HydraException)) and message:
        return message
    return f"{type(cause).__name__}: {message}"


def line_of(message: str) -> str:
    """The line of an exception's message that says what happened: the first, or of a loader process's the last."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    if lines and re.match(r"(\w+: )?Caught \w+ in DataLoader worker", lines[0]):
        return lines[-1].partition(": ")[2]
    return lines[0] if lines else ""


def _unknown_key(key: str, schema: type) -> str:
    known = list(schema_fields(schema))
    parent, _, last = key.replace("/", ".").rpartition(".")
    depth = key.count(".") + 1
    siblings = dict.fromkeys(".".join(name.split(".")[:depth]) for name in known if name.startswith(parent))
    same_last = [name for name in known if name.rpartition(".")[2] == last]
    meant = f"; did you mean {same_last[0]}?" if same_last else nearest(key, [*siblings, *known])
    listed = f"; known: {', '.join(siblings)}" if siblings else ""
    return f"{key} is not a key{meant}{listed}"


def _wrong_value(key: str, problem: str, schema: type) -> str:
    given = re.search(r"[Vv]alue '([^']*)'", problem)
    value = f" (={given[1]})" if given else ""
    if allowed := re.search(r"expected one of \[(.*)\]", problem):
        known = allowed[1].replace("'", "").split(", ")
        return f"{key}{value} must be one of {', '.join(known)}{nearest(given[1] if given else '', known)}"
    kinds = {"Float": "a number", "Integer": "a whole number", "bool": "true or false"}
    wanted = next((words for kind, words in kinds.items() if kind in problem), None)
    rule = f"must be {wanted}" if wanted else f"is not accepted: {problem.strip()}"
    entry = schema_fields(schema).get(key)
    return f"{key}{value} {rule}" + (f" ({entry.metadata['meaning']})" if entry else "")


def register(schema: type = Config) -> None:
    """Make the schema and the resolvers of conf/ known; also what Hydra's compose API needs to read conf/."""
    ConfigStore.instance().store(name="schema", node=schema, provider="fcn")
    OmegaConf.register_new_resolver("run_directory", _run_directory, replace=True)
    OmegaConf.register_new_resolver("trunk_of", _trunk_of, replace=True)
    OmegaConf.register_new_resolver("known_keys", lambda _root_: _key_table(schema, _root_), replace=True)


def _run_directory(resume: str | None, rerun: str | None, name: str, _root_: DictConfig) -> str:
    """Where Hydra puts a run: the directory that is resumed, or a new one named by the time."""
    if rerun and not any(override.startswith("name=") for override in _root_.hydra.overrides.task):
        name = runs.load_config(Path(rerun)).name
    return resume or str(Path("outputs", name, f"{datetime.now():%Y-%m-%d_%H-%M-%S}"))


def _trunk_of(name: ModelName | str) -> str:
    """Trunk of one of torchvision's networks, from its name."""
    trunk = ModelName(str(name)).trunk
    if trunk is None:
        known = ", ".join(model for model in ModelName if model.trunk)
        raise ValueError(f"model.name (={name}) must be one of torchvision's under model=torchvision: {known}")
    return trunk.value


def _key_table(schema: type, composed: DictConfig) -> str:
    """For --help, every key with its value as composed and its meaning, one a line."""
    composed = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    values = flatten(OmegaConf.to_container(composed, resolve=True, enum_to_str=True))  # type: ignore[arg-type]
    lines = []
    for key, entry in schema_fields(schema).items():
        value = values.get(key, "...")  # a dict may hold anything
        text = json.dumps(value) if isinstance(value, (bool, list)) or value is None else str(value)
        lines.append(f"{key:<29} {text if len(text) <= 14 else '...':<14}  {entry.metadata['meaning']}")
    return "\n".join(lines).replace("$", "$$")  # Hydra takes the help text for a string.Template

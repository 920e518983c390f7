"""From what a person types to a checked configuration: Hydra's entry, its resolvers, and messages of one line.

Imports no torch: `--help` and `--cfg job` only compose.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import signal
import sys
import textwrap
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from fcn import errors, runs
from fcn.cli import completion
from fcn.config import Config, ConfigError, ModelName, flatten, schema_fields
from fcn.config.messages import explain_composition
from fcn.config.overrides import values_by_key
from fcn.config.paths import CONF


def run_command(task: Callable[[DictConfig], Any], *, config_name: str, schema: type = Config) -> None:
    """Compose `config_name` of conf/ with the command line and hand it to `task`, once or once per sweep job.

    An exception ends the program with one line on standard error and status 1; with HYDRA_FULL_ERROR=1 in the
    environment its traceback is shown instead.
    """
    if sys.argv[1:2] in (["-sc"], ["--shell-completion"]) and sys.argv[2:] and sys.argv[2].endswith("=bash"):
        print(completion.answer(sys.argv[2], conf=CONF, config_name=config_name, schema=schema))
        return
    register(schema)

    @functools.wraps(task)
    def guarded(composed: DictConfig) -> Any:
        try:
            return task(composed)
        except Exception as error:
            if errors.WANTS_TRACEBACK or HydraConfig.get().mode is RunMode.MULTIRUN:
                raise  # Hydra goes on with the other jobs of a sweep and raises it at the end
            values = OmegaConf.to_container(composed, enum_to_str=True)
            # At once, because Hydra would print a line of its own first.
            raise SystemExit(f"error: {errors.explain(error, flatten(values))}") from None  # type: ignore[arg-type]

    sys.argv[1:] = _flags_first(sys.argv[1:])
    if "--help" in sys.argv or "-h" in sys.argv:
        _list_groups_quickly()
    before = os.environ.get("HYDRA_FULL_ERROR", "0")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then lets exceptions through to us instead of printing its own
    try:
        try:
            hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(guarded)()
        finally:
            sys.stdout.flush()  # else whoever reads has gone only when the interpreter ends, which says so
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except BrokenPipeError:  # of `--help | head`; what Python would write at its end has no reader either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(128 + signal.SIGPIPE) from None
    except Exception as error:
        if errors.WANTS_TRACEBACK:
            raise
        raise SystemExit(f"error: {explain_composition(error, schema) or errors.explain(error)}") from None
    finally:
        os.environ["HYDRA_FULL_ERROR"] = before


def _flags_first(arguments: list[str]) -> list[str]:
    """The arguments as Hydra's parser takes them, which knows overrides only after its flags.

    Raises:
        SystemExit: with one line, for a flag that is none.
    """
    parser = get_args_parser()
    flags = [flag for action in parser._actions for flag in action.option_strings]
    for argument in arguments:
        name = argument.partition("=")[0]
        known = any(flag.startswith(name) for flag in flags) if name.startswith("--") else name in flags
        if name.startswith("-") and not known:
            key = name.lstrip("-").replace("-", "_")
            raise SystemExit(f"error: {name} is no flag; keys are typed without dashes: {key}=VALUE")
    parser.error = _refuse  # type: ignore[method-assign]  # of its own accord it prints all flags first
    overrides: list[str] = parser.parse_intermixed_args(arguments).overrides
    return [argument for argument in arguments if argument not in overrides] + overrides


def _refuse(message: str) -> NoReturn:
    raise SystemExit(f"error: {message}; --hydra-help lists the flags")


def _list_groups_quickly() -> None:
    """Have Hydra read the folders of conf/ once for --help; it would copy them anew for each of its fifty groups."""
    original = ConfigLoaderImpl._parse_overrides_and_create_caching_repo
    listings = functools.cache(lambda loader: original(loader, None, []))

    def cached(loader: ConfigLoaderImpl, config_name: str | None, overrides: list[str]) -> Any:
        return original(loader, config_name, overrides) if config_name or overrides else listings(loader)

    ConfigLoaderImpl._parse_overrides_and_create_caching_repo = cached  # type: ignore[assignment,method-assign]


def register(schema: type = Config) -> None:
    """Make the schema and the resolvers of conf/ known; also what Hydra's compose API needs to read conf/."""
    ConfigStore.instance().store(name="schema", node=schema, provider="fcn")
    OmegaConf.register_new_resolver("run_directory", _run_directory, replace=True)
    OmegaConf.register_new_resolver("trunk_of", _trunk_of, replace=True)
    OmegaConf.register_new_resolver("known_keys", lambda _root_: _key_table(schema, _root_), replace=True)


def _run_directory(resume: str | None, rerun: str | None, name: str, _root_: DictConfig) -> str:
    """Where Hydra puts a run: the directory that is resumed, or a new one named by the time."""
    if rerun and "name" not in values_by_key(_root_.hydra.overrides.task):
        name = runs.load_config(Path(rerun)).name
    return resume or str(Path("outputs", name, f"{datetime.now():%Y-%m-%d_%H-%M-%S}"))


def _trunk_of(name: ModelName | str) -> str:
    """Trunk of one of torchvision's networks, from its name."""
    trunk = ModelName(str(name)).trunk
    if trunk is None:
        known = ", ".join(model for model in ModelName if model.trunk)
        raise ConfigError(f"model.name (={name}) must be one of torchvision's under model=torchvision: {known}")
    return trunk.value


def _key_table(schema: type, composed: DictConfig) -> str:
    """For --help, every key with its value as composed and its meaning: one a line, on a terminal as wide as that."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    indent = " " * (47 if width >= 100 else 31)
    composed = OmegaConf.masked_copy(composed, [str(key) for key in composed if key != "hydra"])
    values = flatten(OmegaConf.to_container(composed, resolve=True, enum_to_str=True))  # type: ignore[arg-type]
    lines = []
    for key, entry in schema_fields(schema).items():
        value = values.get(key, "...")  # a dict may hold anything
        text = json.dumps(value) if isinstance(value, (bool, list)) or value is None else str(value)
        head = f"{key:<29} {text if len(text) <= 14 else '...':<14}  "
        lines += textwrap.wrap(entry.metadata["meaning"], width, initial_indent=head, subsequent_indent=indent)
    return "\n".join(lines).replace("$", "$$")  # Hydra takes the help text for a string.Template

"""Entry of all commands that compose: from the command line through Hydra to a task with a checked configuration.

Imports no torch, because `--help` and `--cfg job` only compose.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from fcn import errors
from fcn.cli import completion, hydra_hooks
from fcn.cli.argparse_entry import exceptions_as_error_lines, use_no_cursor_in_notebooks
from fcn.cli.help_text import compose_job, help_text
from fcn.config import Config, flatten, validate
from fcn.config.components import load_components
from fcn.config.composition import CONF, register_schema
from fcn.config.messages import explain_composition
from fcn.config.overrides import (
    choose_length,
    format_value,
    parse_overrides,
    replaced_lengths,
    split_override,
    values_by_key,
)
from fcn.config.rules import check_run
from fcn.config.written_text import quote_texts, texts_as_written

Schema = TypeVar("Schema")

NEWEST_PYTHON = (3, 13)
"""Hydra 1.3 raises an error in argparse of newer versions (its issue 3121). pyproject.toml has the same bound."""

_added: list[str] = []
"""Overrides that `run_command` has put before the given ones."""

_composes_only = [False]


def composes_only() -> bool:
    """Whether the command prints its configuration or help, and executes nothing."""
    return _composes_only[0]


def run_command(
    task: Callable[[Schema], Any],
    *,
    config_name: str,
    schema: type[Schema],
    implied: Callable[[Mapping[str, str]], Sequence[str]] = lambda values: (),
    run_keys: Mapping[str, Callable[[str], str]] = MappingProxyType({}),
) -> None:
    """Compose `config_name` of conf/ with the command line and call `task`, once or once per job of a sweep.

    An exception ends the program with one line on standard error and status 1; with HYDRA_FULL_ERROR=1 in the
    environment it is raised.

    Args:
        task: gets the configuration with keys, types and ranges checked.
        config_name: name of the command's file in conf/.
        schema: dataclass of the command's keys.
        implied: returns overrides that precede the given ones, such as the options of the run that is resumed. Those
            of a group that is overridden are left out.
        run_keys: keys that name runs, with a function from their value to the path of the run.
    """
    if sys.version_info[:2] > NEWEST_PYTHON:
        version, newest = (".".join(map(str, each)) for each in (sys.version_info[:2], NEWEST_PYTHON))
        raise SystemExit(f"error: Python (={version}) must be at most {newest} for Hydra 1.3; use Python {newest}")
    if sys.argv[1:2] in (["-sc"], ["--shell-completion"]) and sys.argv[2:] and sys.argv[2].endswith("=bash"):
        print(completion.answer(sys.argv[2], config_name=config_name, schema=schema))
        return
    use_no_cursor_in_notebooks()
    arguments, sys.argv[1:] = hydra_hooks.parse_arguments(sys.argv[1:])
    _composes_only[:] = [bool(arguments.help or arguments.cfg or arguments.info)]
    guarded = _guarded(task, schema)

    def explain(error: Exception) -> str:
        return errors.without_credentials(explain_composition(error, schema) or errors.explain(error))

    with (
        exceptions_as_error_lines(explain),
        hydra_hooks.raising_exceptions(),
        _closed_output_ignored(),
        texts_as_written(schema),
    ):
        load_components()
        position = len(sys.argv) - len(arguments.overrides)
        typed = [_with_path_of_run(override, run_keys) for override in quote_texts(arguments.overrides, schema)]
        given = values_by_key(typed)
        _added[:] = [override for override in implied(given) if split_override(override)[0] not in given]
        sys.argv[position:] = arguments.overrides = [*_added, *typed]
        register_schema(schema)
        if arguments.help:
            name = arguments.config_name or config_name
            print(help_text(name, schema, arguments))
        else:
            if arguments.cfg == "job" and not arguments.multirun:
                _check_composed(config_name, schema, arguments)
            hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(guarded)()


def _with_path_of_run(override: str, run_keys: Mapping[str, Callable[[str], str]]) -> str:
    """Return an override whose value names a run with the path of the run; other overrides as they are."""
    key, _, text = override.partition("=")
    if key not in run_keys or not text:
        return override
    with contextlib.suppress(HydraException):  # Hydra reports what cannot be parsed
        (parsed,) = parse_overrides([override])
        value = None if parsed.is_sweep_override() else parsed.value()
        if isinstance(value, str) and (path := run_keys[key](value)) != value:
            return f"{key}={format_value(path)}"
    return override


def given_overrides() -> list[str]:
    """Return the overrides of the command line, or those of this job in a sweep."""
    overrides = list(HydraConfig.get().overrides.task)
    return overrides[len(_added) :]


def _check_composed(config_name: str, schema: type[Schema], arguments: argparse.Namespace) -> None:
    """Validate the configuration that `--cfg job` prints, as a run with the same overrides would.

    Raises:
        ConfigError: if the configuration is invalid.
    """
    if issubclass(schema, Config):  # Hydra prints what it composes, without `choose_length`
        replaced = replaced_lengths(arguments.overrides).items()
        added = [f"{key}={format_value(value)}" for key, value in replaced]
        arguments.overrides += added
        sys.argv += added
    config = validate(compose_job(arguments.config_name or config_name, arguments), schema)
    if isinstance(config, Config) and not config.resume:
        check_run(config)


def _guarded(task: Callable[[Schema], Any], schema: type[Schema]) -> Callable[[DictConfig], Any]:
    """Return the task for Hydra, which validates the configuration and explains exceptions."""

    @functools.wraps(task)
    def guarded(composed: DictConfig) -> Any:
        try:
            with removing_empty_folder(Path(HydraConfig.get().runtime.output_dir)):
                overrides: Any = OmegaConf.to_container(HydraConfig.get().overrides.task)  # keeps ${...} as text
                choose_length(composed, overrides)
                return task(validate(composed, schema))
        except Exception as error:
            if errors.WANTS_TRACEBACK or HydraConfig.get().mode is RunMode.MULTIRUN:
                raise  # Hydra continues with the other jobs of a sweep, and raises it at the end
            values = flatten(OmegaConf.to_container(composed, enum_to_str=True))  # type: ignore[arg-type]
            # Hydra would print another line before it raises the exception of a task.
            raise SystemExit(f"error: {errors.without_credentials(errors.explain(error, values))}") from None

    return guarded


@contextlib.contextmanager
def removing_empty_folder(folder: Path, *, files: tuple[str, ...] = ()) -> Iterator[None]:
    """Remove the output directory after an exception if nothing was written: Hydra creates it before the task starts.

    Args:
        folder: the directory.
        files: names of files that do not count.
    """
    try:
        yield
    except BaseException:
        if folder.is_dir() and {path.name for path in folder.iterdir()} <= set(files):
            for name in files:
                (folder / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # not empty, a symbolic link, or a mount point
            folder = Path(os.path.relpath(folder))
            for directory in (folder, *folder.parents):
                if directory.name in ("", ".."):
                    break
                directory.rmdir()
        raise


@contextlib.contextmanager
def _closed_output_ignored() -> Iterator[None]:
    """End silently with the status of SIGPIPE if the reader of standard output is gone, as after `--help | head`."""
    try:
        try:
            yield
        finally:
            sys.stdout.flush()  # otherwise the interpreter flushes at its end, and prints the exception
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for flushes at exit
        raise SystemExit(128 + signal.SIGPIPE) from None

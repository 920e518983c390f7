"""Messages for exceptions of Hydra and OmegaConf: what is wrong, what is allowed, and the nearest match.

Imports Hydra only in `explain_composition`, because the processes of a run read their configuration without Hydra.
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

from omegaconf.errors import (
    ConfigAttributeError,
    ConfigKeyError,
    InterpolationResolutionError,
    OmegaConfBaseException,
)

from fcn import errors
from fcn.config.components import LIST_GROUPS, options
from fcn.config.overrides import split_override
from fcn.config.schema import AUTO, Config
from fcn.config.schema_keys import schema_fields
from fcn.errors import nearest

if TYPE_CHECKING:
    from hydra.errors import MissingConfigException

PRESET_GROUPS = ("experiment", "study", "debug")
"""Groups whose options set keys of all groups."""


def unknown_key(key: str, schema: type) -> str:
    """Explain that a dotted key does not exist, with the nearest match and the keys of its group.

    A key of another option of its group is explained by the options that have it.
    """
    known = list(schema_fields(schema))
    group, _, name = key.replace("/", ".").partition(".")
    option = name.partition(".")[0]
    if group in LIST_GROUPS and option in options(group) and (key in known or key == f"{group}.{option}"):
        return f"{key} has no effect without the option {option}; remove it, or use {group}=[{option}]"
    if any(f"{each}.".startswith(f"{key}.") for each in known):
        owners = [option for option, each in options(group).items() if hasattr(each(), name.partition(".")[0])]
        return f"{key} has no effect with the chosen option of {group}; remove it, or use {group}={' or '.join(owners)}"
    parent, _, last = key.replace("/", ".").rpartition(".")
    depth = key.count(".") + 1
    siblings = dict.fromkeys(".".join(name.split(".")[:depth]) for name in known if name.startswith(parent))
    same_last = [name for name in known if name.rpartition(".")[2] == last]
    suggestion = f"; did you mean {same_last[0]}?" if same_last else nearest(key, [*siblings, *known])
    listed = f"; known keys: {', '.join(siblings)}" if siblings else ""
    return f"unknown key {key}{suggestion}{listed}"


def yaml_problem(error: BaseException) -> str:
    """Describe what is wrong in a YAML file, and in which line."""
    if mark := getattr(error, "problem_mark", None):
        return f"line {mark.line + 1}: {getattr(error, 'problem', '')}"
    return errors.message_line(str(error)) or type(error).__name__


def explain_value(error: OmegaConfBaseException, schema: type) -> str:
    """Explain an exception that OmegaConf raises for a key or a value of a configuration."""
    if isinstance(error, InterpolationResolutionError):
        return _unresolved(error)
    if not error.full_key:
        return errors.message_line(str(error))
    if isinstance(error, (ConfigKeyError, ConfigAttributeError)):
        return _unknown_or_preset(error.full_key, schema)
    return _wrong_value(error.full_key, errors.message_line(str(error)), schema)


def explain_composition(error: BaseException, schema: type = Config) -> str | None:
    """Explain an exception raised while Hydra composes; None for an exception of another origin.

    Args:
        error: the exception.
        schema: dataclass of the command's keys.
    """
    from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException

    if isinstance(error, (errors.UserError, errors.RunFailure)):
        return None
    inner = error.__cause__ or error.__context__
    cause = inner if isinstance(error, ConfigCompositionException) and inner else error
    if isinstance(cause, MissingConfigException):
        return _unknown_option(cause)
    if isinstance(cause, OverrideParseException):
        return _unparsed(str(cause.override))
    if mark := getattr(cause, "problem_mark", None):
        return f"{mark.name} must be YAML; {yaml_problem(cause)}"
    if isinstance(cause, OmegaConfBaseException) and (
        cause.full_key or isinstance(cause, InterpolationResolutionError)
    ):
        return explain_value(cause, schema)
    if failure := errors.describe_failure(cause, {}):
        return failure
    message = errors.message_line(str(cause))
    if explanation := _explain_text(message, schema):
        return explanation
    if isinstance(error, ConfigCompositionException):
        file = errors.message_line(str(error)).partition(": ")[0]
        return f"{file}: {message}; a preset has lines of the form KEY: VALUE"
    is_hydra = isinstance(cause, (HydraException, OmegaConfBaseException)) or _raised_by_hydra(cause)
    return (message or type(cause).__name__) if is_hydra else None


def _explain_text(message: str, schema: type) -> str | None:
    """Explain a message of Hydra whose exception has no type or attributes of its own."""
    if match := re.search(r"Could not override '([^']+)'", message):
        return _unknown_or_preset(match[1], schema)
    if message.startswith("Config group override must be"):
        return "an option of a group must be a name, not null; leave the group out to keep its default"
    if match := re.match(r"(?:Ambiguous value for argument|Sweep parameters) '([^=]+)=(.*)'", message):
        return _several_values(match[1], match[2].partition("' requires --multirun")[0].partition("': ")[0], schema)
    if "does not support sweep type" in message:
        return f"interval(...) {_DISCRETE}"
    if match := re.match(r"Additional config directory '([^']+)'", message):
        return f"--config-dir (={match[1]}) must be a folder of YAML files"
    return None


_DISCRETE = (
    "must be discrete in a sweep; use choice(a,b) or range(first,end,step), or search the interval by scripts/tune.py "
    "with 'search.KEY={low: a, high: b}'"
)


def _several_values(key: str, values: str, schema: type) -> str:
    """Explain an override that has several values, and is therefore a sweep, in a command without -m."""
    subject, name = f"{key} (={values})", key.lstrip("+")
    if values.startswith("interval("):
        return f"{subject} {_DISCRETE.replace('KEY', name)}"
    entry = schema_fields(schema).get(name.replace("/", "."))
    is_list = name in LIST_GROUPS or (entry is not None and str(entry.type).startswith("list"))
    if is_list and "(" not in values:
        return f"{subject} must be a list; use '{key}=[{values}]'"
    command = f"train.py -m {shlex.quote(f'{key}={values}')}"
    sweep = f"; several values are a sweep: {command}; a list is [a,b]" if schema is Config else ""
    is_text = entry is not None and str(entry.type).startswith("str") and "'" not in values
    text = f"; text that contains a comma is quoted twice: \"{key}='{values}'\"" if is_text else ""
    remedy = f"; {entry.metadata['remedy']}" if entry is not None and entry.metadata.get("remedy") else ""
    return f"{subject} must be one value{sweep}{text}{remedy}"


def _raised_by_hydra(error: BaseException) -> bool:
    """Whether Hydra or a library that it parses with raised a built-in exception, as it does for some flags."""
    frames = error.__traceback__
    while frames and frames.tb_next:
        frames = frames.tb_next
    module = frames.tb_frame.f_globals.get("__name__", "") if frames else ""
    return module.partition(".")[0] in ("hydra", "omegaconf", "yaml", "antlr4")


def _unparsed(override: str) -> str:
    key, value = split_override(override)
    if value.startswith("~"):
        return f"{override} must be KEY=VALUE with a value that does not begin with ~; use {key}=$HOME{value[1:]}"
    if not override.isascii() and "'" not in override:
        quoted = re.sub(r'(?<!")[^\s,\[\]{}"]*[^\x00-\x7f][^\s,\[\]{}"]*(?!")', r'"\g<0>"', value)
        return f"{override} must have quotes around values with letters outside ASCII; use '{key}={quoted}'"
    if value and value[0] not in "[{'\"" and "'" not in value:
        return f"{override} must be KEY=VALUE; quote the value, and the whole for the shell: \"{key}='{value}'\""
    return f"{override} must be KEY=VALUE; quote the whole if it holds spaces, brackets or braces"


def _unknown_or_preset(key: str, schema: type) -> str:
    if key in PRESET_GROUPS:
        return f"presets in {key} must be YAML files whose first line is # @package _global_"
    return unknown_key(key, schema)


def _unknown_option(error: MissingConfigException) -> str:
    group, _, option = (error.missing_cfg_file or "").rpartition("/")
    if option.startswith("submitit_"):
        return f'hydra/launcher (={option}) needs submitit; use pip install -e ".[slurm]"'
    if not group:
        return f"--config-name (={option.lstrip('=')}) must be a YAML file in the folder of the configuration"
    # For an option in a list, Hydra does not name the known ones.
    known = error.options or (list(options(group)) if group in LIST_GROUPS else [])
    return f"unknown option {option} of {group}{nearest(option, known)}; options: {', '.join(known)}"


def _unresolved(error: InterpolationResolutionError) -> str:
    """Explain a value of the form ${...}; an exception of a resolver of this package has a complete message."""
    _, _, message = errors.message_line(str(error)).rpartition(" raised while resolving interpolation: ")
    if " must " in message:
        return message
    message = message.strip('"')
    return f"{error.full_key or 'a value'} must refer to an existing key: {message}"


def _wrong_value(key: str, problem: str, schema: type) -> str:
    quoted = re.search(r"[Vv]alue '([^']*)'", problem)
    value = "null" if "is not Optional" in problem else quoted[1] if quoted else None
    subject = key if value is None else f"{key} (={value})"
    if allowed := re.search(r"expected one of \[(.*)\]", problem):
        known = allowed[1].replace("'", "").split(", ")
        return f"{subject} must be one of {', '.join(known)}{nearest(value or '', known)}"
    if key in LIST_GROUPS:
        known = ", ".join(options(key)) or "none is registered"
        return f"{subject} must be a list of registered options ({known}); docs/extending.md shows how to add one"
    entry = schema_fields(schema).get(key) or schema_fields(schema).get(key.partition("[")[0])
    if entry is None:
        keys = [name for name in schema_fields(schema) if name.startswith(f"{key}.")]
        rule = f"is a group of keys; set one of them: {', '.join(keys)}" if keys else problem.strip()
        return f"{subject} {rule}"
    remedy = f"; {entry.metadata['remedy']}" if entry.metadata.get("remedy") else ""
    type_name = _type_name(str(entry.type), element=key.endswith("]"))
    return f"{subject} must be {type_name} ({entry.metadata['meaning']}){remedy}"


def _type_name(annotation: str, *, element: bool) -> str:
    """Name a type of the schema in words; the type of a list's elements if `element`."""
    words = {"float": "a number", "int": "a whole number", "bool": "true or false", "str": "text"}
    words["IntOrAuto"] = f"{words['int']} or {AUTO}"
    outer, _, inner = annotation.removesuffix(" | None").rstrip("]").partition("[")
    if outer == "dict":
        return f"a map, {{key: value}}, of {words[inner.partition(', ')[0]]} to {words[inner.partition(', ')[2]]}"
    if outer == "list" and not element:
        return f"a list, [a,b], each {words[inner]}"
    return words.get(inner or outer, f"a {outer}")

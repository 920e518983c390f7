"""Typed configuration of a run and of commands. Imports neither torch nor Hydra."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fcn.config import messages, older_versions, rules
from fcn.config.augmentation import AugmentationConfig
from fcn.config.command_schemas import EvaluateConfig, ExportConfig, InferenceConfig
from fcn.config.component_origins import check_available, component_origins
from fcn.config.components import (
    Component,
    component,
    option,
    option_class,
    option_name,
    options,
    setting,
)
from fcn.config.option_bases import (
    FOLD,
    IGNORE_INDEX,
    VOC_CLASSES,
    BackboneConfig,
    CallbackConfig,
    DataConfig,
    LoggerConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    ScheduleConfig,
    TransformConfig,
)
from fcn.config.rules import check_data, check_inference, flatten
from fcn.config.schema import Config, TrainerConfig
from fcn.config.schema_keys import schema_fields, section_of
from fcn.config.trainer_rules import check_batch_size, check_trains
from fcn.config.written_text import texts_as_written
from fcn.errors import ConfigError, nearest

__all__ = [
    "FOLD",
    "IGNORE_INDEX",
    "VOC_CLASSES",
    "AugmentationConfig",
    "BackboneConfig",
    "CallbackConfig",
    "Component",
    "Config",
    "ConfigError",
    "DataConfig",
    "EvaluateConfig",
    "ExportConfig",
    "InferenceConfig",
    "LoggerConfig",
    "LossConfig",
    "ModelConfig",
    "OptimConfig",
    "ScheduleConfig",
    "TrainerConfig",
    "TransformConfig",
    "check_available",
    "check_batch_size",
    "check_data",
    "check_inference",
    "check_trains",
    "component",
    "component_origins",
    "flatten",
    "nearest",
    "option",
    "option_class",
    "option_name",
    "options",
    "read_config",
    "schema_fields",
    "setting",
    "to_container",
    "validate",
    "validate_run",
    "validate_saved",
]


Schema = TypeVar("Schema")


def validate(values: DictConfig | Mapping[str, Any], schema: type[Schema]) -> Schema:
    """Return an object of a dataclass schema, with every key, type and range of its values checked.

    Args:
        values: composed by Hydra, loaded from YAML, or a plain dict of `to_container`; missing keys have their default.
        schema: the dataclass.

    Raises:
        ConfigError: if a key is unknown, or a value has the wrong type or is out of range.
    """
    try:
        resolved = _resolved(values)
        if isinstance(values, DictConfig):
            rules.check_options(values, resolved, schema)
        rules.check_keys(resolved, schema)
        typed = OmegaConf.structured(_with_chosen_options(resolved, schema))
        typed.merge_with(resolved)
        config = OmegaConf.to_object(typed)
    except OmegaConfBaseException as error:
        raise ConfigError(messages.explain_value(error, schema)) from error
    assert isinstance(config, schema)
    rules.check_ranges(to_container(config), schema)
    return config


def _with_chosen_options(values: Mapping[str, Any], schema: type[Schema]) -> Schema:
    """Return an object of the schema with the default values of the options that `values` choose."""
    sections: dict[str, Any] = {}
    for entry in dataclasses.fields(schema):  # type: ignore[arg-type]
        if "group" in entry.metadata and (section := section_of(entry, values.get(entry.name) or {})):
            sections[entry.name] = section()
        elif (group := entry.metadata.get("list_group")) and entry.name in values:
            sections[entry.name] = {name: options(group)[name] for name in values[entry.name] or {}}
    return schema(**sections)


def validate_run(values: DictConfig | Mapping[str, Any]) -> Config:
    """Return the configuration of a run, with all rules checked.

    Raises:
        ConfigError: if a key is unknown, a value invalid, or two keys contradict each other.
    """
    config = validate(values, Config)
    rules.check_run(config)
    return config


def validate_saved(values: Mapping[str, Any]) -> Config:
    """Return the configuration of a saved run of any version, which need not be executable here.

    Raises:
        ConfigError: as `validate_run`, except for the rules that only the training of the run depends on.
    """
    config = validate(older_versions.upgrade(values), Config)
    rules.check_run(config, is_saved=True)
    return config


def read_config(path: Path) -> Config:
    """Return the configuration of a run from its config.yaml.

    Raises:
        ConfigError: if the file is not a valid configuration of this version of the project.
    """
    try:
        with texts_as_written(Config):
            loaded = OmegaConf.load(path)
    except Exception as error:  # OmegaConf lets errors of several YAML layers through
        raise ConfigError(f"{path} must be YAML: {messages.yaml_problem(error)}; restore the file") from error
    if not isinstance(loaded, DictConfig) or not loaded:
        raise ConfigError(f"{path} must hold the keys of a run's configuration; restore the file")
    try:
        values = OmegaConf.to_container(loaded)
        assert isinstance(values, dict)
        return validate_saved({str(key): value for key, value in values.items()})
    except ConfigError as error:
        raise ConfigError(f"{path} must be a configuration of this version: {error}") from error


def to_container(config: object) -> dict[str, Any]:
    """Return a plain dict of plain values (enums by name), as saved in config.yaml and in checkpoints.

    Args:
        config: object of a dataclass schema, with values of the declared types, such as one that `validate` returned.
    """
    return _resolved(_plain(config))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {entry.name: _plain(getattr(value, entry.name)) for entry in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def _resolved(values: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    """Return plain values in which references to other keys, such as `${model.name}`, are replaced."""
    if not isinstance(values, DictConfig):
        if "${" not in repr(values):
            return dict(values)
        values = OmegaConf.create(dict(values))
    container = OmegaConf.to_container(values, resolve=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}

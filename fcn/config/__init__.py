"""Typed configuration of a run. Imports no torch, so that printing a configuration or its help is quick."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fcn.config import messages, rules
from fcn.config.choices import (
    Accelerator,
    Algorithm,
    Alignment,
    BackboneName,
    Border,
    Choice,
    DatasetName,
    ExportFormat,
    ImageType,
    Inference,
    Init,
    ModelName,
    OptimName,
    Precision,
    Protocol,
    PublishedWeights,
    Reduction,
    ScheduleName,
    ScoreInit,
)
from fcn.config.messages import nearest
from fcn.config.resumable_keys import NEUTRAL, changes, check_changes
from fcn.config.rules import ConfigError, check_batch_size, check_inference
from fcn.config.schema import (
    IGNORE_INDEX,
    VOC_CLASSES,
    AugmentationConfig,
    BackboneConfig,
    Config,
    DataConfig,
    ExportConfig,
    InferenceConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    ScheduleConfig,
    ShapesConfig,
    TrainerConfig,
    schema_fields,
    setting,
)

__all__ = [
    "IGNORE_INDEX",
    "NEUTRAL",
    "VOC_CLASSES",
    "Accelerator",
    "Algorithm",
    "Alignment",
    "AugmentationConfig",
    "BackboneConfig",
    "BackboneName",
    "Border",
    "Choice",
    "Config",
    "ConfigError",
    "DataConfig",
    "DatasetName",
    "ExportConfig",
    "ExportFormat",
    "ImageType",
    "Inference",
    "InferenceConfig",
    "Init",
    "LossConfig",
    "ModelConfig",
    "ModelName",
    "OptimConfig",
    "OptimName",
    "Precision",
    "Protocol",
    "PublishedWeights",
    "Reduction",
    "ScheduleConfig",
    "ScheduleName",
    "ScoreInit",
    "ShapesConfig",
    "TrainerConfig",
    "changes",
    "check_batch_size",
    "check_changes",
    "check_inference",
    "flatten",
    "from_composed",
    "from_container",
    "load",
    "nearest",
    "schema_fields",
    "setting",
    "to_container",
    "typed",
]


Schema = TypeVar("Schema")


def typed(composed: DictConfig, schema: type[Schema]) -> Schema:
    """Object of a dataclass schema from composed values, with every key, type and range checked.

    Raises:
        ConfigError: if a key is unknown, or a value of the wrong type or out of its range.
    """
    try:
        values = OmegaConf.to_container(composed, resolve=True)
        assert isinstance(values, dict)
        rules.check_keys(values, schema)
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(schema), composed))
    except OmegaConfBaseException as error:
        raise ConfigError(messages.explain_value(error, schema)) from error
    assert isinstance(config, schema)
    rules.check_ranges(flatten(to_container(config)), schema)
    return config


def from_composed(composed: DictConfig) -> Config:
    """Configuration of a run from a composed or loaded one, all rules checked.

    Raises:
        ConfigError: if a key is unknown, a value out of range, or two keys contradict each other.
    """
    config = typed(composed, Config)
    rules.check_run(config)
    return config


def load(path: Path) -> Config:
    """Configuration of a run from its config.yaml.

    Raises:
        ConfigError: if the file is no configuration of this version of the project.
    """
    rule = f"{path} must hold the keys of a run's configuration"
    remedy = "bring back the file as the run's first execution wrote it"
    try:
        loaded = OmegaConf.load(path)
    except Exception as error:  # OmegaConf lets errors of several YAML layers through
        raise ConfigError(f"{rule}: {messages.yaml_problem(error)}; {remedy}") from error
    if not isinstance(loaded, DictConfig) or not loaded:
        raise ConfigError(f"{rule}, which it does not; {remedy}")
    try:
        return from_composed(loaded)
    except ConfigError as error:
        raise ConfigError(f"{path} must be of this version, whose keys it has to keep: {error}") from error


def from_container(container: Mapping[str, Any]) -> Config:
    """Configuration from the plain dict that `to_container` makes.

    Raises:
        ConfigError: if it is not one of this version.
    """
    return from_composed(OmegaConf.create(dict(container)))


def to_container(config: object) -> dict[str, Any]:
    """Plain dict of plain values (enums by name): what goes into config.yaml and into checkpoints."""
    container = OmegaConf.to_container(OmegaConf.structured(config), resolve=True, enum_to_str=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def flatten(container: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dict as one level with dotted keys: {"model": {"init": 1}} gives {"model.init": 1}."""
    flat: dict[str, Any] = {}
    for key, value in container.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat

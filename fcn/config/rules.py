"""Rules of a configuration: known keys, ranges, and conditions between keys."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from fcn.config.choices import Protocol
from fcn.config.command_schemas import InferenceConfig
from fcn.config.components import LIST_GROUPS, Component, NamedComponent, chosen_components, option_class, option_name
from fcn.config.messages import unknown_key
from fcn.config.option_bases import FOLD, IGNORE_INDEX, DataConfig
from fcn.config.schema import Config
from fcn.config.schema_keys import schema_fields, section_of
from fcn.config.trainer_rules import check_trainer
from fcn.errors import ConfigError


def check_keys(values: Mapping[Any, Any], schema: type, *, section: type | None = None, prefix: str = "") -> None:
    """Check that the schema has every key: Hydra accepts `+key=value`, and a saved configuration may hold any.

    Args:
        values: a configuration, or a section of it.
        schema: dataclass of the whole configuration.
        section: dataclass of the section.
        prefix: dotted name of the section, with a dot at its end.

    Raises:
        ConfigError: naming the first unknown key and the nearest known one.
    """
    entries = {entry.name: entry for entry in dataclasses.fields(section or schema)}
    for key, value in values.items():
        if key not in entries:
            raise ConfigError(unknown_key(f"{prefix}{key}", schema))
        if group := entries[key].metadata.get("list_group"):
            for name, section_values in (value or {}).items():
                chosen = option_class(group, {"name": name}, default=Component)
                check_keys(section_values or {}, schema, section=chosen, prefix=f"{prefix}{key}.{name}.")
            continue
        nested = section_of(entries[key], value) if isinstance(value, Mapping) else None
        if nested is not None:
            check_keys(value, schema, section=nested, prefix=f"{prefix}{key}.")


def check_options(composed: DictConfig, values: Mapping[str, Any], schema: type) -> None:
    """Check that `optim.name=sgd` does not replace `optim=sgd`, which other keys belong to.

    Options with equal keys may replace each other, such as torchvision's backbones.

    Args:
        composed: composed by Hydra; a configuration without types is accepted with every name.
        values: the same configuration, resolved.
        schema: dataclass of the whole configuration.

    Raises:
        ConfigError: naming the first other option.
    """
    for entry in dataclasses.fields(schema):
        chosen = OmegaConf.get_type(composed, entry.name) if "group" in entry.metadata else None
        if chosen is None or not issubclass(chosen, NamedComponent) or not isinstance(values[entry.name], Mapping):
            continue
        named = section_of(entry, values[entry.name])
        assert named is not None
        group, name = entry.metadata["group"], option_name(values[entry.name])
        if [each.name for each in dataclasses.fields(chosen)] != [each.name for each in dataclasses.fields(named)]:
            raise ConfigError(f"{group}.name (={name}) cannot be changed by itself; use {group}={name}")
        assert callable(entry.default_factory)
        if chosen not in (named, type(entry.default_factory())):
            raise ConfigError(f"{group} (={chosen().name}) has no effect with {group}.name (={name}); leave one out")


def check_ranges(values: Mapping[str, Any], schema: type) -> None:
    """Check the range of every key of a nested configuration of plain values.

    Raises:
        ConfigError: naming key, value and range of the first one outside.
    """
    flat = flatten(values)
    for key, entry in schema_fields(schema, values).items():
        _check_range(key, flat.get(key), **{name: entry.metadata.get(name) for name in ("low", "high", "remedy")})


def flatten(container: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a nested dict to dotted keys: {"model": {"init": 1}} gives {"model.init": 1}.

    A list group has its keys, and the names of the chosen options besides: {"callbacks": ["ema"]}. A map from numbers,
    such as data.label_map, is the value of one key.
    """
    flat: dict[str, Any] = {}
    for key, value in container.items():
        if not prefix and key in LIST_GROUPS:
            flat[key] = list(value or ())
        is_section = key in LIST_GROUPS or prefix.rstrip(".") in LIST_GROUPS
        if isinstance(value, Mapping) and (is_section or (value and all(isinstance(k, str) for k in value))):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def check_run(config: Config, *, is_saved: bool = False) -> None:
    """Check the conditions between keys of a run.

    Args:
        config: configuration of the run.
        is_saved: whether it is read from a run directory or a checkpoint, maybe without executing the run. Its
            transforms, callbacks and loggers, whose libraries may not be installed, are then not checked.

    Raises:
        ConfigError: naming key, value, rule and remedy of the first rule that is broken.
    """
    _check_lists(config)
    _check_names(config)
    _check_length(config)
    _check_frozen_backbone(config)
    _check_augmentation(config)
    _check_folds(config.data)
    for option, chosen in chosen_components(config).items():
        if not (is_saved and option.partition("=")[0] in LIST_GROUPS):
            chosen.check(config)
    check_trainer(config)


def _check_augmentation(config: Config) -> None:
    if config.data.on_device and config.transforms:
        raise ConfigError(
            f"data.on_device (=true) must be false with transforms=[{','.join(config.transforms)}], because transforms "
            "change single crops in main memory; leave one out"
        )
    if config.data.protocol is Protocol.d2l and config.data.augmentation.rotation:
        raise ConfigError(
            f"data.augmentation.rotation (={config.data.augmentation.rotation}) must be 0 with data.protocol=d2l, "
            "which trains void as background, because the corners of a rotated crop are void; use data.protocol=voc"
        )
    if config.data.protocol is Protocol.d2l and config.data.augmentation.short_side is not None:
        raise ConfigError(
            f"data.augmentation.short_side (={config.data.augmentation.short_side}) must be null with "
            "data.protocol=d2l, which drops images by their native size and trains void as background, because the "
            "padding of a scaled image is void; use data.protocol=voc"
        )


def _check_range(key: str, value: Any, *, low: float | None, high: float | None, remedy: str | None) -> None:
    for number in value if isinstance(value, list) else [value]:
        if isinstance(number, list):
            _check_range(key, number, low=low, high=high, remedy=remedy)
        if not isinstance(number, (int, float)) or isinstance(number, bool):
            continue
        # Written so that NaN, which compares false with everything, fails too.
        if (low is not None and not number >= low) or (high is not None and not number <= high):
            bounds = f"at least {low}" if high is None else f"between {low} and {high}"
            raise ConfigError(f"{key} (={value}) must be {bounds}{f'; {remedy}' if remedy else ''}")
        if math.isinf(number):
            raise ConfigError(f"{key} (={value}) must be finite; use a number")


def _check_lists(config: Config) -> None:
    lengths: dict[str, tuple[Sequence[float], str]] = {
        "data.crop_size": (config.data.crop_size, "two numbers, height and width: [320,480]"),
        "data.augmentation.scale": (config.data.augmentation.scale, "two numbers, low and high: [0.5,2.0]"),
    }
    for key, (value, rule) in lengths.items():
        if len(value) != 2:
            raise ConfigError(f"{key} (={value}) must be {rule}")
    low, high = config.data.augmentation.scale
    if low > high:
        raise ConfigError(f"data.augmentation.scale (=[{low}, {high}]) must be in ascending order; use [{high},{low}]")


def check_data(data: DataConfig) -> None:
    """Check the conditions between the keys of a dataset, for a command that has no run.

    Raises:
        ConfigError: naming key, value, rule and remedy of the first rule that is broken.
    """
    check_classes(data.classes)
    _check_folds(data)
    data.check(Config(data=data))


def _check_folds(data: DataConfig) -> None:
    if data.fold is None:
        if data.folds != DataConfig.folds:
            raise ConfigError(f"data.folds (={data.folds}) has no effect without data.fold; use data.fold=0")
        if data.split_seed and getattr(data, "val_fraction", None) is None:
            keys = "data.fold or data.val_fraction" if hasattr(data, "val_fraction") else "data.fold"
            raise ConfigError(f"data.split_seed (={data.split_seed}) has no effect without {keys}")
    elif data.fold >= data.folds:
        raise ConfigError(
            f"data.fold (={data.fold}) must be less than data.folds (={data.folds}), because folds are numbered from "
            f"0; use 0 to {data.folds - 1}"
        )
    elif data.train_split == FOLD:
        raise ConfigError(
            f"data.train_split (={FOLD}) must have another name with data.fold, which is the name of the split that "
            "validates; rename the list"
        )


def check_classes(classes: Sequence[str]) -> None:
    """Check the names of the classes, `data.classes`.

    Raises:
        ConfigError: if their number is not valid, or a name is not printable or occurs twice.
    """
    if not 2 <= len(classes) <= IGNORE_INDEX:
        raise ConfigError(
            f"data.classes must name 2 to {IGNORE_INDEX} classes, the background first; got {len(classes)}"
        )
    if len(set(classes)) < len(classes):
        twice = next(each for each in classes if classes.count(each) > 1)
        raise ConfigError(f"data.classes must be different names; {twice} occurs more than once")
    if unfit := [each for each in classes if not each.strip() or not each.isprintable()]:
        raise ConfigError(f"data.classes must be printable names; {unfit[0]!r} is not")


def _check_names(config: Config) -> None:
    check_classes(config.data.classes)
    name = config.name
    if not name or not name.isprintable() or Path(name).is_absolute() or ".." in Path(name).parts:
        raise ConfigError(f"name (={name!r}) must be a folder below outputs/, such as name=my_runs")
    if "" in (config.resume, config.rerun):
        raise ConfigError("resume and rerun must be run directories, not ''; check for an empty shell variable")


def _check_frozen_backbone(config: Config) -> None:
    """Check that keys of the training of a backbone are not set if it is frozen."""
    for key, unset in (("lr_multiplier", 1.0), ("layer_decay", None)):
        value = getattr(config.backbone, key, unset)
        if not config.backbone.trainable and value != unset:
            unset_text = "null" if unset is None else "1"
            raise ConfigError(f"backbone.{key} (={value}) must be {unset_text} with backbone.trainable=false")


def _check_length(config: Config) -> None:
    steps, interval, val_every = config.steps, config.trainer.val_every_steps, config.trainer.val_every
    if config.epochs is None and steps is None:
        raise ConfigError("epochs and steps must not both be null; use epochs=7 or steps=1000")
    if config.epochs is not None and steps is not None:
        raise ConfigError(f"epochs (={config.epochs}) must be null with steps (={steps}); omit one of them")
    if steps is None and interval is not None:
        raise ConfigError(
            f"trainer.val_every_steps (={interval}) must have steps=...; use trainer.val_every for epochs"
        )
    if steps is not None and val_every != 1:
        raise ConfigError(
            f"trainer.val_every (={val_every}) must be 1 with steps (={steps}); use trainer.val_every=1 and "
            "trainer.val_every_steps=..."
        )


def check_inference(config: InferenceConfig) -> None:
    """Check the conditions between keys of inference.

    Raises:
        ConfigError: naming key, value, rule and remedy of the first rule that is broken.
    """
    if len(config.tile_size) != 2 or any(side % 32 for side in config.tile_size):
        raise ConfigError(
            f"tile_size (={config.tile_size}) must be two multiples of 32, height and width; use [320,480]"
        )
    if not config.scales:
        raise ConfigError("scales (=[]) must have at least one scale; use scales=[1.0]")

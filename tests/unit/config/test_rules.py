"""Rules of a configuration and the messages when they are broken."""

import dataclasses
import re

import pytest
from omegaconf import DictConfig, OmegaConf

from fcn import config as configuration
from fcn.config import Config, ConfigError, InferenceConfig, schema_fields
from fcn.config.choices import Init
from fcn.config.components import GROUPS

FIELDS = schema_fields(Config)
TORCHVISION = {"model.library": "torchvision", "model.name": "fcn_resnet50", "backbone.name": "resnet50"}


def composed(overrides: dict[str, object]) -> DictConfig:
    """Return a configuration with the given dotted keys; all others have their defaults."""
    node = OmegaConf.create({})
    for key, value in overrides.items():
        OmegaConf.update(node, key, value, force_add=True)
    return node


def option_with(key):
    """Return the overrides that choose an option with the given key."""
    group, _, name = key.partition(".")
    owners = configuration.options(group) if group in GROUPS else {}
    owner = next((each for each, option in owners.items() if hasattr(option(), name.partition(".")[0])), None)
    return {f"{group}.name": owner} if owner else {}


def test_values_are_typed():
    config = configuration.validate_run(composed({"model.init": "xavier", "lr": "1e-2", "data.crop_size": [64, 96]}))
    assert config.model.init is Init.xavier
    assert config.lr == 0.01
    assert config.data.crop_size == [64, 96]


def test_every_key_has_a_meaning_and_every_number_a_lower_bound():
    for key, entry in FIELDS.items():
        assert len(entry.metadata["meaning"]) > 8, key
        numeric = re.search(r"\b(int|float)\b(?!,)", str(entry.type)) is not None
        assert not numeric or entry.metadata["low"] is not None, key


@pytest.mark.parametrize("key", [key for key, entry in FIELDS.items() if entry.metadata["low"] is not None])
def test_lower_bound_is_checked(key):
    entry = FIELDS[key]
    default = entry.default_factory() if entry.default is dataclasses.MISSING else entry.default
    low = entry.metadata["low"]
    value = [low - 1, *default[1:]] if isinstance(default, list) else low - 1
    if str(entry.type).startswith("list[list["):
        value = [[low - 1] * 3]
    with pytest.raises(ConfigError, match=rf"^{re.escape(key)} \(=.*\) must be (at least|between) {low}"):
        configuration.validate_run(composed({**option_with(key), key: value}))


@pytest.mark.parametrize(
    ("message", "overrides"),
    [
        ("optim.momentum has no effect .*; remove it, or use optim=sgd", {"optim.momentum": 0.3}),
        ("optim.betas has no effect .* use optim=adamw", {"optim.name": "sgd", "optim.betas": [0.9, 0.9]}),
        ("optim.nesterov has no effect", {"optim.nesterov": True}),
        ("schedule.power has no effect .* use schedule=poly", {"schedule.power": 3}),
        ("model.skip_scale has no effect .* use model=fcn16s or fcn8s", {"model.skip_scale": [1, 1]}),
        ("model.init has no effect", {**TORCHVISION, "model.init": "xavier"}),
        ("model.alignment has no effect", {**TORCHVISION, "model.alignment": "centered"}),
        ("data.shapes has no effect .* use data=shapes", {"data.name": "voc", "data.shapes.num_train": 3}),
        ("data.download has no effect .* use data=voc", {"data.download": True}),
        ("model.weights has no effect .* use model=torchvision", {"model.weights": "voc"}),
        (r"optim \(=adamww\) must be a registered option; did you mean adamw\?", {"optim.name": "adamww"}),
    ],
)
def test_key_of_another_option_is_refused(message, overrides):
    with pytest.raises(ConfigError, match=f"^{message}"):
        configuration.validate_run(composed(overrides))


@pytest.mark.parametrize(
    ("message", "overrides"),
    [
        ("lr", {"lr": float("nan")}),
        ("data.crop_size", {"data.crop_size": [320]}),
        ("optim.betas", {"optim.betas": [0.9]}),
        ("model.skip_scale .* must be two numbers", {"model.name": "fcn8s", "model.skip_scale": [0.01]}),
        ("model.skip_scale .* must be one number", {"model.name": "fcn16s", "model.skip_scale": [1, 1]}),
        ("data.augmentation.flip", {"data.augmentation.flip": 1.5}),
        ("data.augmentation.scale", {"data.augmentation.scale": [2.0, 0.5]}),
        ("data.classes must name 2 to 255", {"data.classes": ["background"]}),
        ("data.classes must be different names; cat", {"data.classes": ["background", "cat", "cat"]}),
        ("data.classes must be printable names; ' ' is not", {"data.classes": ["background", " "]}),
        (r"data.classes must be printable names; 'a\\nb' is not", {"data.classes": ["background", "a\nb"]}),
        ("batch_size", {"batch_size": 3, "trainer.devices": 2}),
        (
            r"trainer.accumulate \(=4\) must divide the 6 images of a process .* batch_size=8",
            {"batch_size": 12, "trainer.devices": 2, "trainer.accumulate": 4},
        ),
        (r"trainer.accumulate \(=two\) must be a whole number or auto; use", {"trainer.accumulate": "two"}),
        (r"trainer.accumulate \(=1.5\) must be a whole number or auto \(", {"trainer.accumulate": 1.5}),
        (
            r"trainer.accumulate \(=auto\) must be a number with trainer.sync_batchnorm=true and several processes",
            {"trainer.accumulate": "auto", "trainer.sync_batchnorm": True, "trainer.devices": 2},
        ),
        (
            r"trainer.activation_checkpointing \(=true\) must be false with compile=true",
            {"trainer.activation_checkpointing": True, "compile": True},
        ),
        (
            r"trainer.activation_checkpointing \(=true\) has no effect with backbone.trainable=false",
            {"trainer.activation_checkpointing": True, "backbone.trainable": False},
        ),
        ("name", {"name": "../elsewhere"}),
        ("name", {"name": "/elsewhere"}),
        ("name", {"name": ""}),
        ("name", {"name": "two\nlines"}),
        ("resume and rerun", {"resume": ""}),
        ("resume and rerun", {"rerun": ""}),
        ("optim.nesterov", {"optim.name": "sgd", "optim.nesterov": True, "optim.momentum": 0}),
        ("trainer.precision", {"trainer.precision": "fp16", "trainer.accelerator": "cpu"}),
        (r"backbone.output_stride \(=64\) must be between 8 and 32", {"backbone.output_stride": 64}),
        ("backbone.name", {**TORCHVISION, "backbone.name": "resnet101"}),
        (
            "backbone.name .* backbone.output_stride null",
            {**TORCHVISION, "backbone.output_stride": 16},
        ),
        (
            "backbone.weights .* none with model",
            {**TORCHVISION, "model.weights": "voc", "backbone.weights": "imagenet"},
        ),
        ("batch_size", {**TORCHVISION, "model.name": "deeplabv3_resnet50", "batch_size": 1}),
        (r"epochs and steps must not both be null", {"epochs": None}),
        (r"epochs \(=7\) must be null with steps \(=9\)", {"steps": 9}),
        (r"trainer.val_every_steps \(=9\) must have steps", {"trainer.val_every_steps": 9}),
        (r"trainer.val_every \(=2\) must be 1 with steps", {"epochs": None, "steps": 9, "trainer.val_every": 2}),
        (
            r"backbone.lr_multiplier \(=0.1\) must be 1 with backbone.trainable=false",
            {"backbone.trainable": False, "backbone.lr_multiplier": 0.1},
        ),
        (
            r"data.augmentation.rotation \(=5.0\) must be 0 with data.protocol=d2l",
            {"data.protocol": "d2l", "data.augmentation.rotation": 5.0},
        ),
        (
            r"data.augmentation.short_side \(=96\) must be null with data.protocol=d2l, .*; use data.protocol=voc$",
            {"data.protocol": "d2l", "data.augmentation.short_side": 96},
        ),
        ("unknown key model.int", {"model.int": "xavier"}),
    ],
)
def test_broken_rule_names_its_key(message, overrides):
    with pytest.raises(ConfigError, match=f"^{message}"):
        configuration.validate_run(composed(overrides))


@pytest.mark.parametrize("overrides", [{"tile_size": [320, 481]}, {"tile_size": [320]}, {"scales": []}])
def test_rules_of_inference(overrides):
    with pytest.raises(ConfigError, match=rf"^{next(iter(overrides))} \(="):
        configuration.check_inference(InferenceConfig(**overrides))


def test_configuration_file_must_hold_keys(tmp_path):
    (tmp_path / "config.yaml").write_text("[1, 2]")
    with pytest.raises(ConfigError, match="must hold the keys"):
        configuration.read_config(tmp_path / "config.yaml")


def test_container_holds_plain_data():
    for value in configuration.flatten(configuration.to_container(Config())).values():
        assert type(value) in (str, int, float, bool, list, type(None))

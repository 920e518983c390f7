"""Rules of a configuration and the messages when they are broken."""

import dataclasses
import re

import pytest
from omegaconf import OmegaConf

from fcn import config as configuration
from fcn.config import Config, ConfigError, InferenceConfig, schema_fields
from fcn.config.choices import Init


def composed(**overrides: object):
    """The schema's defaults with dotted keys changed, as Hydra would compose them."""
    node = OmegaConf.create(configuration.to_container(Config()))
    for key, value in overrides.items():
        OmegaConf.update(node, key.replace("__", "."), value)
    return node


def test_defaults_are_valid():
    assert configuration.validate_run(composed()) == configuration.validate_run(configuration.to_container(Config()))


def test_values_are_typed():
    config = configuration.validate_run(composed(model__init="xavier", lr="1e-2", data__crop_size=[64, 96]))
    assert config.model.init is Init.xavier
    assert config.lr == 0.01
    assert config.data.crop_size == [64, 96]


def test_default_name_is_the_dataset():
    assert configuration.validate_run(composed(name="${data.name}", data__name="voc")).name == "voc"


def test_every_key_has_a_meaning_and_every_number_a_lower_bound():
    for key, entry in schema_fields(Config).items():
        assert len(entry.metadata["meaning"]) > 8 or key == "backbone.name", key
        numeric = re.search(r"\b(int|float)\b", str(entry.type)) is not None
        assert not numeric or entry.metadata["low"] is not None, key


@pytest.mark.parametrize(
    "low", [entry for entry in schema_fields(Config).items() if entry[1].metadata["low"] is not None]
)
def test_lower_bound_is_checked(low):
    key, entry = low
    default = entry.default_factory() if entry.default is dataclasses.MISSING else entry.default
    below = entry.metadata["low"] - 1
    value = [below, *default[1:]] if isinstance(default, list) else below
    with pytest.raises(
        ConfigError, match=rf"^{re.escape(key)} \(=.*\) must be (at least|between) {entry.metadata['low']}"
    ):
        configuration.validate_run(composed(**{key: value}))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"lr": float("nan")}, r"lr \(=nan\) must be at least 0"),
        ({"data__augmentation__flip": 1.5}, r"flip \(=1.5\) must be between 0 and 1"),
        ({"data__crop_size": [320]}, r"data.crop_size \(=\[320\]\) must be two numbers"),
        ({"data__augmentation__scale": [2.0, 0.5]}, r"scale \(=\[2.0, 0.5\]\) must be in ascending order"),
        ({"optim__betas": [0.9]}, r"optim.betas \(=\[0.9\]\) must be two numbers"),
        ({"data__classes": ["background"]}, "data.classes must name 2 to 255 classes"),
        ({"data__classes": ["background", "cat", "cat"]}, "must be different names; cat"),
        (
            {"batch_size": 3, "trainer__devices": 2},
            r"batch_size \(=3\) must be divisible by the number of processes \(=2\)",
        ),
        (
            {"batch_size": 12, "trainer__devices": 2, "trainer__accumulate": 4},
            r"trainer.accumulate \(=4\) must divide the 6 images of a process into equal parts; use .* batch_size=8",
        ),
        ({"name": "../elsewhere"}, "name .* must be a folder below outputs/"),
        ({"name": "/elsewhere"}, "name .* must be a folder below outputs/"),
        ({"name": ""}, "name .* must be a folder below outputs/"),
        ({"name": "two\nlines"}, "name .* must be a folder below outputs/"),
        ({"data__classes": ["background", " "]}, "data.classes must be printable names; ' ' is not"),
        ({"data__classes": ["background", "a\nb"]}, r"data.classes must be printable names; 'a\\nb' is not"),
        ({"resume": ""}, "resume and rerun must be run directories, not ''; check for an empty shell variable"),
        ({"rerun": ""}, "resume and rerun must be run directories, not ''; check for an empty shell variable"),
        ({"optim__nesterov": True, "optim__momentum": 0}, "optim.nesterov .* must have optim.momentum above 0"),
        ({"trainer__precision": "fp16", "trainer__accelerator": "cpu"}, "trainer.precision .* must run on a GPU"),
        (
            {"model__skip_scale": [0.01]},
            r"model.skip_scale \(=\[0.01\]\) must be two numbers, coarse to fine: \[1,1\]",
        ),
        ({"model__skip_scale": [0.01, -1]}, r"model.skip_scale \(=\[0.01, -1.0\]\) must be at least 0"),
        ({"backbone__output_stride": 4}, r"backbone.output_stride \(=4\) must be between 8 and 32"),
        ({"backbone__output_stride": 64}, r"backbone.output_stride \(=64\) must be between 8 and 32"),
        (
            {"model__name": "deeplabv3_resnet50", "backbone__name": "resnet101"},
            r"backbone.name \(=resnet101\) must be resnet50 .* for model.name \(=deeplabv3_resnet50\); use "
            r"model=torchvision model.name=deeplabv3_resnet50",
        ),
        (
            {"model__name": "fcn_resnet50", "backbone__name": "resnet50", "backbone__output_stride": 16},
            r"backbone.name \(=resnet50\) must be resnet50 and backbone.output_stride null",
        ),
        (
            {"model__weights": "voc"},
            r"model.weights \(=voc\) must have a torchvision network, not model.name \(=fcn32s\); use",
        ),
        (
            {"model__name": "deeplabv3_resnet50", "backbone__name": "resnet50", "batch_size": 1},
            r"batch_size \(=1\) must be at least 2 per process and part for deeplabv3_resnet50, .*; use batch_size=2",
        ),
        ({"model__init": "xaver"}, "model.init"),
        ({"epochs": 2.5}, "epochs"),
    ],
)
def test_rules(overrides, message):
    with pytest.raises(ConfigError, match=message):
        configuration.validate_run(composed(**overrides))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"tile_size": [320, 481]}, r"tile_size \(=\[320, 481\]\) must be two multiples of 32"),
        ({"tile_size": [320]}, r"tile_size \(=\[320\]\) must be two multiples of 32, .*; use \[320,480\]"),
        ({"scales": []}, r"scales \(=\[\]\) must have at least one scale; use scales=\[1.0\]"),
    ],
)
def test_rules_of_inference(overrides, message):
    with pytest.raises(ConfigError, match=message):
        configuration.check_inference(InferenceConfig(**overrides))


def test_valid_settings_of_inference():
    configuration.check_inference(InferenceConfig())
    configuration.check_inference(InferenceConfig(tile_size=[32, 512], scales=[0.5, 1.0, 2.0], flip=True))


def test_unknown_key_is_named_with_the_nearest_match():
    node = composed()
    OmegaConf.update(node, "model.int", "xavier", force_add=True)
    with pytest.raises(
        ConfigError, match=r"unknown key model\.int; did you mean model\.init\?; known keys: model\.name, model\.init"
    ):
        configuration.validate_run(node)


def test_configuration_is_equal_after_saving_and_loading(tmp_path):
    config = configuration.validate_run(composed(model__init="xavier", trainer__devices=2))
    (tmp_path / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(configuration.to_container(config))))
    assert configuration.read_config(tmp_path / "config.yaml") == config


@pytest.mark.parametrize(
    ("text", "message"), [("[1, 2]", "must hold the keys"), ("", "must hold the keys"), ("a: [", "line 1: ")]
)
def test_invalid_configuration_file(tmp_path, text, message):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        configuration.read_config(tmp_path / "config.yaml")


def test_container_holds_plain_data():
    for value in configuration.flatten(configuration.to_container(Config())).values():
        assert type(value) in (str, int, float, bool, list, type(None))

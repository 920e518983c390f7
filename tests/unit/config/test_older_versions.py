"""Configurations of runs of earlier commits, which had the keys of all options of a group."""

import copy

import pytest

from fcn.config import Config, option, read_config, to_container, validate_run
from fcn.config.older_versions import upgrade

EARLIER = {
    "data": {"name": "shapes", "download": False, "shapes": {"num_train": 9, "num_val": 80, "seed": 0}},
    "backbone": {"name": "resnet18", "weights": "none", "output_stride": None},
    "model": {
        "name": "fcn32s", "init": "xavier", "upsample_trainable": True, "score_init": "xavier",
        "skip_scale": [1.0, 1.0], "alignment": "chapter", "border": "zero", "freeze_batchnorm": False,
        "weights": "none", "init_from": None,
    },
    "loss": {"reduction": "image_sum"},
    "optim": {"name": "adamw", "momentum": 0.9, "nesterov": False, "betas": [0.8, 0.9], "weight_decay": 0.1},
    "schedule": {"name": "cosine", "power": 0.9, "warmup_steps": None},
}  # fmt: skip


def test_keys_of_the_chosen_options_are_kept():
    config = validate_run(upgrade(EARLIER))
    assert (config.data.shapes.num_train, config.model.init, config.loss.reduction) == (9, "xavier", "image_sum")
    assert (config.optim.betas, config.optim.weight_decay) == ([0.8, 0.9], 0.1)


@pytest.mark.parametrize(
    ("section", "name", "expected"),
    [
        ("data", "voc", option("data", "voc")),
        ("optim", "sgd", option("optim", "sgd", weight_decay=0.1)),
        ("schedule", "poly", option("schedule", "poly")),
        ("model", "fcn16s", option("model", "fcn16s", init="xavier", skip_scale=[0.01])),
        ("model", "fcn8s", option("model", "fcn8s", init="xavier", skip_scale=[0.01, 0.0001])),
    ],
)
def test_keys_of_other_options_are_dropped(section, name, expected):
    values = copy.deepcopy(EARLIER)
    values[section]["name"] = name
    values["model"]["skip_scale"] = [0.01, 0.0001]
    assert to_container(getattr(validate_run(upgrade(values)), section)) == to_container(expected)


def test_torchvision_network():
    values = copy.deepcopy(EARLIER)
    values["model"] |= {"name": "lraspp_mobilenet_v3_large", "weights": "voc"}
    values["backbone"]["name"] = "mobilenet_v3_large"
    model = validate_run(upgrade(values)).model
    assert (model.library, model.name, model.weights) == ("torchvision", "lraspp_mobilenet_v3_large", "voc")


def test_configuration_of_this_version_is_unchanged(tmp_path):
    values = to_container(Config())
    assert upgrade(values) == values
    (tmp_path / "config.yaml").write_text(str(values).replace("None", "null"))
    assert read_config(tmp_path / "config.yaml") == validate_run(values)

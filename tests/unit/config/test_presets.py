"""Presets of conf/ compose to the recipes that they name, and model=torchvision brings its own backbone."""

import pytest

from fcn.config import ConfigError
from fcn.config.choices import (
    BackboneName,
    DatasetName,
    Init,
    ModelName,
    OptimName,
    PublishedWeights,
    Reduction,
    ScheduleName,
    ScoreInit,
)
from fcn.config.composition import CONF, compose

# From voc-fcn*/solver.prototxt of fcn.berkeleyvision.org: base_lr; at once it is FCN-32s's.
PAPERS = [
    ("fcn32s_vgg16", ModelName.fcn32s, 1e-10, "imagenet", None, [1.0, 1.0]),
    ("fcn16s_vgg16", ModelName.fcn16s, 1e-12, "none", "<run of fcn32s_vgg16>", [1.0, 1.0]),
    ("fcn8s_vgg16", ModelName.fcn8s, 1e-14, "none", "<run of fcn16s_vgg16>", [1.0, 1.0]),
    ("fcn8s_atonce_vgg16", ModelName.fcn8s, 1e-10, "imagenet", None, [0.01, 0.0001]),
]


@pytest.mark.parametrize(("preset", "model", "lr", "weights", "init_from", "skip_scale"), PAPERS)
def test_presets_of_the_papers(preset, model, lr, weights, init_from, skip_scale):
    config = compose(f"experiment={preset}")
    assert (config.name, config.model.name, config.lr) == (preset, model, lr)
    assert (config.backbone.name, config.backbone.weights) == (BackboneName.vgg16, weights)
    assert (config.model.init_from, config.model.skip_scale) == (init_from, skip_scale)
    # The same for all.
    assert (config.optim.name, config.optim.momentum, config.optim.weight_decay) == (OptimName.sgd, 0.99, 5e-4)
    assert (config.optim.bias_lr_multiplier, config.optim.nesterov, config.optim.decay_all) == (2, False, False)
    assert (config.schedule.name, config.batch_size) == (ScheduleName.constant, 1)
    assert config.loss.reduction is Reduction.pixel_sum
    assert (config.model.init, config.model.upsample_trainable) == (Init.bilinear, False)
    assert config.model.score_init is ScoreInit.zero
    assert (config.data.name, config.data.train_split, config.data.val_split) == (
        DatasetName.voc, "train_aug", "seg11valid",
    )  # fmt: skip
    augmentation = config.data.augmentation
    assert (config.data.crop_size, augmentation.scale, augmentation.flip) == ([500, 500], [1.0, 1.0], 0.0)


def test_presets_of_the_papers_have_no_warm_up():
    """Their solver files have lr_policy: "fixed"."""
    assert compose("experiment=fcn32s_vgg16").schedule.warmup_steps == 0


def test_override_changes_a_preset():
    config = compose("experiment=fcn16s_vgg16", "model.init_from=outputs/mine", "lr=1e-11")
    assert (config.model.init_from, config.lr, config.model.name) == ("outputs/mine", 1e-11, ModelName.fcn16s)


@pytest.mark.parametrize("group", ["model", "backbone"])
def test_every_head_and_backbone_is_an_option_of_its_group(group):
    known = BackboneName if group == "backbone" else [name for name in ModelName if not name.backbone]
    for name in known:
        assert (CONF / group / f"{name}.yaml").read_text() == f"name: {name}\n"


@pytest.mark.parametrize(
    ("name", "backbone"),
    [
        ("fcn_resnet50", "resnet50"),
        ("fcn_resnet101", "resnet101"),
        ("deeplabv3_resnet50", "resnet50"),
        ("lraspp_mobilenet_v3_large", "mobilenet_v3_large"),
    ],
)
def test_torchvision_network_sets_its_backbone(name, backbone):
    config = compose("model=torchvision", f"model.name={name}", "model.weights=voc")
    assert (config.model.name, config.backbone.name) == (ModelName(name), BackboneName(backbone))
    assert config.model.weights is PublishedWeights.voc


def test_default_torchvision_network():
    config = compose("model=torchvision")
    assert (config.model.name, config.backbone.name) == (ModelName.fcn_resnet50, BackboneName.resnet50)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["model=torchvision", "model.name=fcn8s"],
            r"model.name \(=fcn8s\) must be one of torchvision's under model=torchvision: fcn_resnet50, fcn_resnet101",
        ),
        (["model.name=deeplabv3_resnet50"], "use model=torchvision model.name=deeplabv3_resnet50"),
        (["model=fcn4s"], "unknown option fcn4s of model; did you mean fcn"),
        (["backbone=vgg15"], "unknown option vgg15 of backbone; did you mean vgg16"),
        (["model.name=deeplab"], "model.name .* must be one of fcn32s, fcn16s, fcn8s, fcn_resnet50"),
        (["backbone.output_stride=half"], "backbone.output_stride .*must be a whole number"),
    ],
)
def test_invalid_combination_gives_a_one_line_error(overrides, message):
    with pytest.raises(ConfigError, match=message) as caught:
        compose(*overrides)
    assert "\n" not in str(caught.value)

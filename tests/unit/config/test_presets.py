"""Presets of conf/ compose to the recipes that they name, and model=torchvision brings its own backbone."""

import pytest

from fcn.config.choices import Init, Reduction, ScoreInit, TorchvisionModel
from fcn.config.composition import compose

# From voc-fcn*/solver.prototxt of fcn.berkeleyvision.org: base_lr; FCN-8s at once has that of FCN-32s.
PAPERS = [
    ("fcn32s_vgg16", "fcn32s", 1e-10, "imagenet", None, []),
    ("fcn16s_vgg16", "fcn16s", 1e-12, "none", "<run of fcn32s_vgg16>", [1.0]),
    ("fcn8s_vgg16", "fcn8s", 1e-14, "none", "<run of fcn16s_vgg16>", [1.0, 1.0]),
    ("fcn8s_atonce_vgg16", "fcn8s", 1e-10, "imagenet", None, [0.01, 0.0001]),
]


@pytest.mark.parametrize(("preset", "model", "lr", "weights", "init_from", "skip_scale"), PAPERS)
def test_presets_of_the_papers(preset, model, lr, weights, init_from, skip_scale):
    config = compose(f"experiment={preset}")
    assert (config.name, config.model.name, config.lr) == (preset, model, lr)
    assert (config.backbone.name, config.backbone.weights) == ("vgg16", weights)
    assert (config.model.init_from, config.model.skip_factors) == (init_from, skip_scale)
    # Common to all; lr_policy in the solver files is "fixed".
    assert (config.optim.name, config.optim.momentum, config.optim.weight_decay) == ("sgd", 0.99, 5e-4)
    assert (config.optim.bias_lr_multiplier, config.optim.nesterov, config.optim.decay_all) == (2, False, False)
    assert (config.schedule.name, config.schedule.warmup_steps, config.batch_size) == ("constant", 0, 1)
    assert config.loss.reduction is Reduction.pixel_sum
    assert (config.model.init, config.model.upsample_trainable) == (Init.bilinear, False)
    assert config.model.score_init is ScoreInit.zero
    assert (config.data.name, config.data.train_split, config.data.val_split) == (
        "voc", "train_aug", "seg11valid",
    )  # fmt: skip
    steps = 300_000 if preset == "fcn8s_atonce_vgg16" else 100_000  # from voc-fcn*/solve.py: 25 or 75 times 4000
    assert (config.epochs, config.steps, config.trainer.val_every_steps) == (None, steps, 4000)
    augmentation = config.data.augmentation
    assert (config.data.crop_size, augmentation.scale, augmentation.flip) == ([500, 500], [1.0, 1.0], 0.0)


@pytest.mark.parametrize(
    ("overrides", "length"),
    [
        ([], (7, None)),
        (["steps=100"], (None, 100)),
        (["experiment=d2l", "steps=100"], (None, 100)),
        (["experiment=fcn32s_vgg16", "epochs=2"], (2, None)),  # without its trainer.val_every_steps
        (["experiment=voc_small", "steps=9"], (None, 9)),  # without its trainer.val_every
        (["experiment=fcn32s_vgg16", "epochs=null", "steps=9"], (None, 9)),
        (["steps=null"], (7, None)),
    ],
)
def test_epochs_and_steps_replace_each_other(overrides, length):
    config = compose(*overrides)
    assert (config.epochs, config.steps) == length


@pytest.mark.parametrize(
    ("overrides", "name", "backbone"),
    [
        ([], "fcn_resnet50", "resnet50"),
        (["model.name=fcn_resnet101", "model.weights=voc"], "fcn_resnet101", "resnet101"),
        (["model.name=deeplabv3_resnet50"], "deeplabv3_resnet50", "resnet50"),
        (["model.name=lraspp_mobilenet_v3_large"], "lraspp_mobilenet_v3_large", "mobilenet_v3_large"),
    ],
)
def test_torchvision_network_sets_its_backbone(overrides, name, backbone):
    config = compose("model=torchvision", *overrides)
    assert (config.model.name, config.backbone.name) == (TorchvisionModel(name), backbone)

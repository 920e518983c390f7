"""Presets of conf/ compose to the recipes that they name, and model=torchvision brings its own backbone."""

import pytest
import torch
from torch import nn

from fcn.config import flatten, to_container
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


# From configs/fcn/fcn_r50-d8_4xb4-20k_voc12aug-512x512.py of mmsegmentation and the files that it includes.
MMSEGMENTATION = {
    "data.name": "voc", "data.train_split": "train_aug", "data.val_split": "val", "data.crop_size": [512, 512],
    "data.cat_max_ratio": 0.75, "data.augmentation.short_side": 512, "data.augmentation.scale": [0.5, 2.0],
    "data.augmentation.flip": 0.5, "batch_size": 4 * 4, "epochs": None, "steps": 20_000, "lr": 0.01,
    "optim.name": "sgd", "optim.momentum": 0.9, "optim.weight_decay": 5e-4, "optim.decay_all": True,
    "optim.nesterov": False, "optim.head_lr_multiplier": 1.0, "backbone.lr_multiplier": 1.0, "optim.clip_norm": None,
    "schedule.name": "poly", "schedule.power": 0.9, "schedule.final_factor": 1e-4 / 0.01, "schedule.warmup_steps": 0,
    "loss.name": "cross_entropy", "loss.reduction": "pixel_mean", "loss.class_weights": None,
    "model.name": "conv_head", "model.channels": 512, "model.num_convs": 2, "model.concat_input": True,
    "model.dropout": 0.1, "model.auxiliary_weight": 0.4, "model.score_init": "normal", "model.init": "bilinear",
    "model.upsample_trainable": False, "model.border": "replicate", "model.alignment": "chapter",
    "backbone.library": "timm", "backbone.weights": "imagenet", "backbone.output_stride": 8,
    "trainer.sync_batchnorm": True, "trainer.val_every_steps": 2000,
}  # fmt: skip

# BNHead of facebookresearch/dinov2, and evaluation/configs/vitb_voc2012_linear_config.py of Denoising-ViT.
DINOV2 = {
    "data.train_split": "train", "data.val_split": "val", "data.crop_size": [512, 512], "data.cat_max_ratio": 0.75,
    "data.augmentation.short_side": 512, "data.augmentation.scale": [0.5, 2.0], "data.augmentation.flip": 0.5,
    "batch_size": 8 * 2, "epochs": None, "steps": 40_000, "lr": 1e-3, "optim.name": "adamw",
    "optim.betas": [0.9, 0.999], "optim.weight_decay": 1e-4, "optim.decay_all": True, "schedule.name": "poly",
    "schedule.power": 1.0, "schedule.final_factor": 0.0, "schedule.warmup_steps": None,
    "schedule.warmup_share": 1500 / 40_000,
    "loss.name": "cross_entropy", "loss.reduction": "pixel_mean", "model.name": "linear_head",
    "model.score_init": "normal", "model.auxiliary_weight": 0.0, "backbone.name": "vit_small_patch14_dinov2.lvd142m",
    "backbone.library": "timm", "backbone.weights": "imagenet", "backbone.trainable": False,
    "trainer.sync_batchnorm": True, "trainer.val_every_steps": 10_000,
}  # fmt: skip


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("fcn_r50_d8", MMSEGMENTATION | {"name": "fcn_r50_d8", "backbone.name": "resnet50c.gluon_in1k"}),
        ("fcn_r101_d8", MMSEGMENTATION | {"name": "fcn_r101_d8", "backbone.name": "resnet101c.gluon_in1k"}),
        ("fcn_dinov2", DINOV2 | {"name": "fcn_dinov2"}),
    ],
)
def test_presets_of_published_recipes(preset, expected):
    flat = flatten(to_container(compose(f"experiment={preset}")))
    assert {key: flat[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("preset", "blocks"), [("fcn_r50_d8", (3, 4, 6, 3)), ("fcn_r101_d8", (3, 4, 23, 3))], ids=["r50", "r101"]
)
def test_network_of_fcn_d8_is_that_of_mmsegmentation(preset, blocks):
    """ResNetV1c with `strides=(1, 2, 1, 1)`, `dilations=(1, 1, 2, 4)` and `contract_dilation`, and both heads."""
    config = compose(f"experiment={preset}", "backbone.weights=none")
    with torch.device("meta"):
        model = config.model.build(config)
    layers = model.backbone.layers
    stem = [layer for layer in layers.conv1.modules() if isinstance(layer, nn.Conv2d)]
    assert [(layer.out_channels, layer.kernel_size, layer.stride) for layer in stem] == [
        (32, (3, 3), (2, 2)), (32, (3, 3), (1, 1)), (64, (3, 3), (1, 1)),
    ]  # fmt: skip
    stages = zip((layers.layer1, layers.layer2, layers.layer3, layers.layer4), blocks, strict=True)
    for number, (stage, length) in enumerate(stages):
        stride, dilation = (1, 2, 1, 1)[number], (1, 1, 2, 4)[number]
        first = dilation // 2 if dilation > 1 else dilation  # contract_dilation
        convs = [(block.conv2.stride[0], block.conv2.dilation[0]) for block in stage]
        assert convs == [(stride, first)] + [(1, dilation)] * (length - 1)
    assert model.backbone.channels[-2:] == (1024, 2048)
    head = {name: tuple(value.shape) for name, value in model.named_parameters() if value.ndim == 4}
    assert {name: shape for name, shape in head.items() if not name.startswith("backbone.")} == {
        "score_fr.convs.layers.0.conv.weight": (512, 2048, 3, 3),
        "score_fr.convs.layers.1.conv.weight": (512, 512, 3, 3),
        "score_fr.convs.last.conv.weight": (512, 2048 + 512, 3, 3),
        "score_fr.score.weight": (21, 512, 1, 1),
        "upscore.weight": (21, 21, 16, 16),
        "auxiliary.score.convs.0.conv.weight": (256, 1024, 3, 3),
        "auxiliary.score.score.weight": (21, 256, 1, 1),
        "auxiliary.upscore.weight": (21, 21, 16, 16),
    }


@pytest.mark.parametrize("given", [(), ("backbone.weights=weights.pth",)], ids=["imagenet", "file"])
def test_d2l_preset_with_a_backbone_of_timm_changes_nothing_else(given):
    """The preset's `backbone.weights` holds for any backbone; a file on the command line replaces it."""
    d2l = flatten(to_container(compose("experiment=d2l")))
    name = "tf_efficientnet_lite0"
    flat = flatten(to_container(compose("experiment=d2l", "backbone=timm", f"backbone.name={name}", *given)))
    weights = "weights.pth" if given else "imagenet"
    backbone = {"backbone.library": "timm", "backbone.name": name, "backbone.weights": weights}
    assert flat == d2l | backbone | {"backbone.layer_decay": None}


@pytest.mark.parametrize(
    ("overrides", "length"),
    [
        ([], (7, None)),
        (["steps=100"], (None, 100)),
        (["experiment=d2l", "steps=100"], (None, 100)),
        (["experiment=fcn32s_vgg16", "epochs=2"], (2, None)),  # without its trainer.val_every_steps
        (["experiment=voc_small", "steps=9"], (None, 9)),  # without its trainer.val_every
        (["experiment=fcn_r50_d8", "epochs=2"], (2, None)),
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

"""Schema of conf/: every key with its default, its meaning, its unit and its range.

The defaults of the project live here and nowhere else; the YAML files of conf/ say what differs.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

IGNORE_INDEX = 255
"""Mask value of void pixels, which count in no loss and in no metric."""

VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


class Choice(str, Enum):
    """One of a few names. Members are lower case: OmegaConf reads an enum by member name, so it is what users type."""

    def __str__(self) -> str:
        return str(self.value)


class DatasetName(Choice):
    shapes = "shapes"
    voc = "voc"


class Protocol(Choice):
    """voc: void pixels count nowhere. d2l: as in the chapter, see `DataConfig.protocol`."""

    voc = "voc"
    d2l = "d2l"


class BackboneName(Choice):
    resnet18 = "resnet18"
    resnet34 = "resnet34"
    resnet50 = "resnet50"
    resnet101 = "resnet101"
    resnet152 = "resnet152"
    squeezenet1_0 = "squeezenet1_0"


class ModelName(Choice):
    fcn32s = "fcn32s"


class Init(Choice):
    bilinear = "bilinear"
    xavier = "xavier"


class Reduction(Choice):
    pixel_mean = "pixel_mean"
    image_sum = "image_sum"
    pixel_sum = "pixel_sum"


class OptimName(Choice):
    sgd = "sgd"
    adamw = "adamw"


class ScheduleName(Choice):
    constant = "constant"
    poly = "poly"
    cosine = "cosine"


class Accelerator(Choice):
    auto = "auto"
    cpu = "cpu"
    gpu = "gpu"


class Precision(Choice):
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


def setting(default: Any, meaning: str, *, low: float | None = None, high: float | None = None) -> Any:
    """A dataclass field with its meaning and its inclusive range (for a list, the range of every element)."""
    metadata = {"meaning": meaning, "low": low, "high": high}
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(kw_only=True, slots=True)
class AugmentationConfig:
    """Random changes of a training image. The defaults change nothing: the chapter's plain random crop."""

    scale: list[float] = setting([1.0, 1.0], "range of the random scale, relative to native size", low=0.1, high=10)
    flip: float = setting(0.0, "probability of a horizontal flip", low=0, high=1)
    brightness: float = setting(0.0, "factor drawn from [1 - b, 1 + b]", low=0, high=1)
    contrast: float = setting(0.0, "factor drawn from [1 - c, 1 + c]", low=0, high=1)
    saturation: float = setting(0.0, "factor drawn from [1 - s, 1 + s]", low=0, high=1)
    hue: float = setting(0.0, "shift drawn from [-h, h], in turns of the colour circle", low=0, high=0.5)


@dataclass(kw_only=True, slots=True)
class ShapesConfig:
    """Size and seed of the embedded set (`data=shapes`)."""

    num_train: int = setting(400, "training images", low=1)
    num_val: int = setting(80, "validation images", low=1)
    seed: int = setting(0, "seed of the drawings; the run's seed is another", low=0)


@dataclass(kw_only=True, slots=True)
class DataConfig:
    """The images. Validation is always on whole images at native size."""

    name: DatasetName = setting(DatasetName.shapes, "shapes: the embedded set; voc: a VOC2012 tree on disk")
    root: str = setting("data", "folder that holds VOCdevkit/VOC2012, or in which the embedded set is drawn")
    download: bool = setting(False, "fetch VOC2012 (2 GB) into root when it is absent")
    train_split: str = setting("train", "a list in ImageSets/Segmentation; train_aug uses SegmentationClassAug")
    val_split: str = setting("val", "a list in ImageSets/Segmentation")
    classes: list[str] = setting(list(VOC_CLASSES), "names in the order of the mask indices; 0 is the background")
    protocol: Protocol = setting(
        Protocol.voc,
        "d2l: void trains as background, images below the crop are dropped, d2l/... is logged as well",
    )
    crop_size: list[int] = setting([320, 480], "height and width of the training crop, pixels", low=1)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    shapes: ShapesConfig = field(default_factory=ShapesConfig)
    num_workers: int | None = setting(None, "loader processes per device; null chooses. Never changes a number", low=0)


@dataclass(kw_only=True, slots=True)
class BackboneConfig:
    """The trunk, a torchvision classification network without pooling and classifier."""

    name: BackboneName = setting(BackboneName.resnet18, "name of the network in torchvision")
    weights: str = setting("none", "none (random), imagenet (torchvision's V1), or the path of a state dict")


@dataclass(kw_only=True, slots=True)
class ModelConfig:
    """The head on the trunk."""

    name: ModelName = setting(ModelName.fcn32s, "one upsampling of the coarsest map")
    init: Init = setting(Init.bilinear, "initialisation of the transposed convolution")
    upsample_trainable: bool = setting(True, "false freezes the transposed convolution")


@dataclass(kw_only=True, slots=True)
class LossConfig:
    """Cross-entropy per pixel, void left out."""

    reduction: Reduction = setting(
        Reduction.pixel_mean, "pixel_mean; image_sum (d2l): sum of the images' means; pixel_sum (Long et al.)"
    )


@dataclass(kw_only=True, slots=True)
class OptimConfig:
    name: OptimName = setting(OptimName.adamw, "the learning rate itself is the top-level key lr")
    momentum: float = setting(0.9, "momentum of SGD", low=0, high=1)
    nesterov: bool = setting(False, "Nesterov momentum for SGD")
    betas: list[float] = setting([0.9, 0.999], "betas of AdamW", low=0, high=0.999999)
    weight_decay: float = setting(1e-4, "on convolution weights; not on biases, norms and frozen kernels", low=0)
    decay_all: bool = setting(False, "weight decay on biases and norms too, as the chapter does")
    head_lr_multiplier: float = setting(1.0, "learning rate of the head relative to the trunk's", low=0)


@dataclass(kw_only=True, slots=True)
class ScheduleConfig:
    """Learning rate as a factor of lr, set anew at every step."""

    name: ScheduleName = setting(ScheduleName.cosine, "constant, poly: (1 - t)^power, or cosine; t from 0 to 1")
    power: float = setting(0.9, "exponent of poly", low=0)
    warmup_steps: int | None = setting(None, "steps of linear rise to lr; null: a tenth of the run", low=0)


@dataclass(kw_only=True, slots=True)
class TrainerConfig:
    """Where and how a run is executed. Nothing here changes what is computed, but for precision and rounding."""

    accelerator: Accelerator = setting(Accelerator.auto, "auto: GPUs if there are any, else the CPU")
    devices: int | None = setting(None, "processes, one per device; null: all GPUs, or one process on the CPU", low=1)
    precision: Precision = setting(Precision.fp32, "of the forward and backward pass; weights stay fp32")
    val_every: int = setting(1, "epochs between validations; the last epoch is always validated", low=1)
    log_every: int = setting(10, "steps between two points of the step curves", low=1)
    sample_images: int = setting(6, "validation images drawn as panels after each validation", low=0)


@dataclass(kw_only=True, slots=True)
class Config:
    """One run. `lr`, `epochs`, `batch_size`, `seed` and `name` are understood by every preset."""

    name: str = setting("${data.name}", "folder of the run below outputs/")
    lr: float = setting(1e-3, "peak learning rate of the trunk", low=0)
    epochs: int = setting(7, "passes over the training images", low=1)
    batch_size: int = setting(16, "images per optimiser step over all processes", low=1)
    seed: int = setting(0, "of initial weights, order and augmentation", low=0, high=2**32 - 1)
    resume: str | None = setting(None, "run directory to go on with; it brings its own configuration")
    data: DataConfig = field(default_factory=DataConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)


def schema_fields(schema: type, prefix: str = "") -> dict[str, dataclasses.Field[Any]]:
    """Every leaf key of a dataclass schema, dotted, with its field."""
    leaves: dict[str, dataclasses.Field[Any]] = {}
    for entry in dataclasses.fields(schema):
        factory = entry.default_factory
        if isinstance(factory, type) and dataclasses.is_dataclass(factory):
            leaves.update(schema_fields(factory, f"{prefix}{entry.name}."))
        else:
            leaves[f"{prefix}{entry.name}"] = entry
    return leaves

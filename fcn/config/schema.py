"""Schema of conf/: every key with its default, its meaning, its unit and its range.

The defaults of the project live here and nowhere else; the YAML files of conf/ say what differs.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from fcn.config.choices import (
    Accelerator,
    Algorithm,
    Alignment,
    BackboneName,
    Border,
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

IGNORE_INDEX = 255
"""Mask value of void pixels, which count in no loss and in no metric."""

VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


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

    name: DatasetName = setting(
        DatasetName.shapes, "shapes: the embedded set; voc: VOC2012, or what has its layout, on disk"
    )
    root: str = setting("data", "folder of VOCdevkit/VOC2012, or of JPEGImages; where the embedded set is drawn")
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
    cache: bool = setting(True, "decode every image once into a file that all processes and runs share")
    cache_dir: str | None = setting(None, "folder of that file; null: cache/ in the root of the dataset")
    on_device: bool = setting(False, "keep the training images in the memory of the GPU and make the crops there")


@dataclass(kw_only=True, slots=True)
class BackboneConfig:
    """The trunk, a torchvision classification network without pooling and classifier."""

    name: BackboneName = setting(BackboneName.resnet18, "name of the network in torchvision")
    weights: str = setting("none", "none (random), imagenet (torchvision's V1), or the path of a state dict")
    output_stride: int | None = setting(
        None, "8, 16 or 32: coarser stages are dilated instead; null: as the network is built", low=8, high=32
    )


@dataclass(kw_only=True, slots=True)
class ModelConfig:
    """The head on the trunk. Of torchvision's networks only name and weights mean something."""

    name: ModelName = setting(ModelName.fcn32s, "fcn32s, fcn16s, fcn8s, or one of torchvision's (model=torchvision)")
    init: Init = setting(Init.bilinear, "initialisation of the transposed convolutions")
    upsample_trainable: bool = setting(True, "false freezes the transposed convolutions")
    score_init: ScoreInit = setting(ScoreInit.xavier, "of the coarsest score layer; those of skips start at zero")
    skip_scale: list[float] = setting([1.0, 1.0], "factors of the skips, coarse to fine; at-once: [0.01,1e-4]", low=0)
    alignment: Alignment = setting(
        Alignment.chapter, "chapter: kernel 2s, padding s/2; centered: centred where the features of a cell are"
    )
    border: Border = setting(Border.zero, "of the coarse scores; zero: logits fade there; replicate: they go on")
    freeze_batchnorm: bool = setting(False, "keep statistics, scale and shift of batch norm as the weights have them")
    weights: PublishedWeights = setting(PublishedWeights.none, "voc: torchvision's own, for model=torchvision")
    init_from: str | None = setting(None, "run or checkpoint whose fitting weights are copied before training")


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
    bias_lr_multiplier: float = setting(1.0, "learning rate of biases relative to weights'; Long et al.: 2", low=0)


@dataclass(kw_only=True, slots=True)
class ScheduleConfig:
    """Learning rate as a factor of lr, set anew at every step."""

    name: ScheduleName = setting(ScheduleName.cosine, "constant, poly: (1 - t)^power, or cosine; t from 0 to 1")
    power: float = setting(0.9, "exponent of poly", low=0)
    warmup_steps: int | None = setting(None, "steps of linear rise to lr; null: a tenth of the run", low=0)


@dataclass(kw_only=True, slots=True)
class TrainerConfig:
    """Where and how a run is executed. Nothing here changes what is computed but rounding, and batch norm's batches."""

    accelerator: Accelerator = setting(Accelerator.auto, "auto: GPUs if there are any, else the CPU")
    devices: int | None = setting(None, "processes, one per device; null: all GPUs, or one process on the CPU", low=1)
    precision: Precision = setting(
        Precision.auto, "of forward and backward pass, weights stay fp32; auto: bf16 where the device computes in it"
    )
    upsampling: Algorithm = setting(
        Algorithm.auto, "how transposed convolutions are computed; auto: transposed, on a GPU whichever is faster"
    )
    accumulate: int = setting(1, "parts in which a process computes its share of a step, to need less memory", low=1)
    sync_batchnorm: bool = setting(False, "batch norm over the images of all processes; GPUs only")
    val_every: int = setting(1, "epochs between validations; the last epoch is always validated", low=1)
    val_batch_size: int | None = setting(
        None, "images of equal size that are validated at once; null: 1 on the CPU, 8 on a GPU", low=1
    )
    checkpoint_steps: int | None = setting(None, "steps between checkpoints within an epoch; null: none", low=1)
    checkpoint_minutes: float | None = setting(10, "minutes between checkpoints within an epoch; null: none", low=0)
    timeout_minutes: float | None = setting(
        30, "without progress of any process of several, until the run ends and names who hangs; null: never", low=0.01
    )
    log_every: int = setting(10, "steps between two points of the step curves", low=1)
    sample_images: int = setting(6, "validation images drawn as panels after each validation", low=0)


@dataclass(kw_only=True, slots=True)
class Config:
    """One run. `lr`, `epochs`, `batch_size`, `seed` and `name` are understood by every preset."""

    name: str = setting("${data.name}", "folder of the run below outputs/")
    lr: float = setting(1e-3, "peak learning rate of the trunk", low=0)
    epochs: int = setting(7, "passes over the training images; 0 keeps the network as initialised", low=0)
    batch_size: int = setting(16, "images per optimiser step over all processes", low=1)
    seed: int = setting(0, "of initial weights, order and augmentation", low=0, high=2**32 - 1)
    deterministic: bool = setting(False, "only deterministic algorithms on a GPU; a CPU always gives the same bits")
    compile: bool = setting(False, "compile the network for training; takes about a minute at the start")
    resume: str | None = setting(None, "run directory to go on with; it brings its own configuration")
    allow: list[str] = setting([], "keys that may change with resume=..., whose bits are then other ones")
    rerun: str | None = setting(None, "finished run to repeat in a new directory, and to compare with bit for bit")
    execute: bool = setting(True, "false only makes the run directory, for another machine to execute")
    data: DataConfig = field(default_factory=DataConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)


@dataclass(kw_only=True, slots=True)
class InferenceConfig:
    """How a trained network is applied to an image. Flip and scales average class probabilities."""

    inference: Inference = setting(Inference.whole, "whole: the image at once; tiled: overlapping tiles, averaged")
    tile_size: list[int] = setting([320, 480], "height and width of a tile, pixels, multiples of 32", low=32)
    flip: bool = setting(False, "average with the prediction for the mirrored image")
    scales: list[float] = setting([1.0], "average over the image at these scales, relative to native", low=0.1, high=10)
    accelerator: Accelerator = setting(Accelerator.auto, "auto: a GPU if there is one, else the CPU")


@dataclass(kw_only=True, slots=True)
class ExportConfig:
    """What is exported, and on what it is verified."""

    run: str | None = setting(None, "run directory (its best checkpoint, else its last) or .ckpt file; required")
    format: ExportFormat = setting(ExportFormat.onnx, "onnx, or torch_export (.pt2, for torch.export.load)")
    output: str | None = setting(None, "file to write; null: <run>/export/model.onnx or .pt2, beside a .ckpt file")
    input: ImageType = setting(ImageType.uint8, "images that the file takes; uint8: 0..255, float: 0..1")
    opset: int | None = setting(None, "ONNX operator set; null: the exporter's default", low=18)
    sizes: list[list[int]] = setting(
        [[1, 1], [2, 3], [33, 47], [96, 128], [375, 500]], "heights and widths of the images that it is verified on"
    )
    batches: list[int] = setting([1, 2], "numbers of images that it is verified on", low=1)
    tolerance: float = setting(1e-3, "allowed difference of logits, relative to the largest one beyond 1", low=0)


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

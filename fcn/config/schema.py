"""Schema of the configuration: every key with its default, meaning, unit and range.

This is the only place for defaults; the YAML files of conf/ list the differences.
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
"""Mask value of void pixels, which are ignored by losses and metrics."""

VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


def setting(default: Any, meaning: str, *, low: float | None = None, high: float | None = None) -> Any:
    """Return a dataclass field with its meaning and its inclusive range (for a list, the range of each element)."""
    metadata = {"meaning": meaning, "low": low, "high": high}
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(kw_only=True, slots=True)
class AugmentationConfig:
    """Random augmentation of a training image. The defaults only crop at random, as d2l does."""

    scale: list[float] = setting(
        [1.0, 1.0], "minimum and maximum of the random scale, relative to the native size", low=0.1, high=10
    )
    flip: float = setting(0.0, "probability of a horizontal flip", low=0, high=1)
    brightness: float = setting(0.0, "strength b: the brightness factor is drawn from [1 - b, 1 + b]", low=0, high=1)
    contrast: float = setting(0.0, "strength c: the contrast factor is drawn from [1 - c, 1 + c]", low=0, high=1)
    saturation: float = setting(0.0, "strength s: the saturation factor is drawn from [1 - s, 1 + s]", low=0, high=1)
    hue: float = setting(0.0, "strength h: the shift is drawn from [-h, h]; 1 is the full hue circle", low=0, high=0.5)


@dataclass(kw_only=True, slots=True)
class ShapesConfig:
    """Size and seed of the built-in synthetic dataset (`data=shapes`)."""

    num_train: int = setting(400, "number of training images", low=1)
    num_val: int = setting(80, "number of validation images", low=1)
    seed: int = setting(0, "seed of the images, independent of the seed of the run", low=0)


@dataclass(kw_only=True, slots=True)
class DataConfig:
    """Dataset, crops and loading. Validation always uses whole images at native size."""

    name: DatasetName = setting(
        DatasetName.shapes, "shapes: built-in synthetic dataset; voc: VOC2012, or another dataset in its layout"
    )
    root: str = setting("data", "folder that contains VOCdevkit/VOC2012 or JPEGImages; data=shapes writes to it")
    download: bool = setting(False, "download VOC2012 (2 GB) into data.root if it is missing")
    train_split: str = setting(
        "train", "list of training images in ImageSets/Segmentation; masks of train_aug are in SegmentationClassAug"
    )
    val_split: str = setting("val", "list of validation images in ImageSets/Segmentation")
    classes: list[str] = setting(list(VOC_CLASSES), "class names in the order of the mask indices; 0 is the background")
    protocol: Protocol = setting(
        Protocol.voc,
        "voc: void pixels (mask value 255) are ignored; d2l: as in the d2l chapter, training treats void as "
        "background and drops images smaller than the crop, and the metrics d2l/... are logged in addition",
    )
    crop_size: list[int] = setting([320, 480], "height and width of the training crop in pixels", low=1)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    shapes: ShapesConfig = field(default_factory=ShapesConfig)
    num_workers: int | None = setting(
        None, "number of data loader processes per device; it does not affect the results; null: automatic", low=0
    )
    cache: bool = setting(True, "decode each image only once, into a file that all processes and runs share")
    cache_dir: str | None = setting(None, "folder of the cache; null: the folder cache/ in the root of the dataset")
    on_device: bool = setting(False, "keep the training images in GPU memory and crop them on the GPU")


@dataclass(kw_only=True, slots=True)
class BackboneConfig:
    """Backbone: the feature maps of a torchvision classification network."""

    name: BackboneName = setting(BackboneName.resnet18, "name of the torchvision network")
    weights: str = setting("none", "initial weights: none (random), imagenet (torchvision V1), or path of a state dict")
    output_stride: int | None = setting(
        None, "stride of the coarsest feature map, reduced by dilation; null: not reduced", low=8, high=32
    )


@dataclass(kw_only=True, slots=True)
class ModelConfig:
    """Segmentation head. For torchvision's networks only `name` and `weights` have an effect."""

    name: ModelName = setting(
        ModelName.fcn32s, "fcn32s, fcn16s, fcn8s, or a torchvision network (with model=torchvision)"
    )
    init: Init = setting(Init.bilinear, "initialisation of the transposed convolutions: bilinear or xavier")
    upsample_trainable: bool = setting(True, "train the transposed convolutions; false freezes them")
    score_init: ScoreInit = setting(
        ScoreInit.xavier, "initialisation of the coarsest score layer; those of the skips are initialised to zero"
    )
    skip_scale: list[float] = setting(
        [1.0, 1.0], "factors of the skips, from coarse to fine; use [0.01,1e-4] to train FCN-8s in one stage", low=0
    )
    alignment: Alignment = setting(
        Alignment.chapter,
        "alignment of a transposed convolution of stride s; chapter: kernel size 2s and padding s/2, as in the d2l "
        "chapter; centered: the kernel is centred on the cells of the backbone's feature map",
    )
    border: Border = setting(
        Border.zero, "padding of the score map before upsampling: zero, or replicate (repeats the outermost cells)"
    )
    freeze_batchnorm: bool = setting(False, "keep batch norm statistics, scale and shift at their initial values")
    weights: PublishedWeights = setting(PublishedWeights.none, "voc: published VOC weights (model=torchvision only)")
    init_from: str | None = setting(None, "run or checkpoint from which all matching weights are copied at the start")


@dataclass(kw_only=True, slots=True)
class LossConfig:
    """Cross-entropy per pixel, ignoring void."""

    reduction: Reduction = setting(
        Reduction.pixel_mean,
        "pixel_mean: mean over all pixels of the batch; image_sum: mean over the pixels of each image, summed over "
        "the images (d2l chapter); pixel_sum: sum over all pixels (Shelhamer et al.)",
    )


@dataclass(kw_only=True, slots=True)
class OptimConfig:
    """Optimiser; the learning rate is the top-level key `lr`."""

    name: OptimName = setting(OptimName.adamw, "optimiser; its learning rate is the top-level key lr")
    momentum: float = setting(0.9, "momentum of SGD", low=0, high=1)
    nesterov: bool = setting(False, "use Nesterov momentum with SGD")
    betas: list[float] = setting([0.9, 0.999], "betas of AdamW", low=0, high=0.999999)
    weight_decay: float = setting(
        1e-4, "weight decay of convolution weights; biases, norm layers and frozen kernels are not decayed", low=0
    )
    decay_all: bool = setting(False, "apply weight decay to biases and norm layers too, as the d2l chapter does")
    head_lr_multiplier: float = setting(1.0, "factor of the learning rate for the head", low=0)
    bias_lr_multiplier: float = setting(1.0, "factor of the learning rate for biases; Long et al. use 2", low=0)


@dataclass(kw_only=True, slots=True)
class ScheduleConfig:
    """Learning rate schedule: a factor of `lr`, updated at every step."""

    name: ScheduleName = setting(
        ScheduleName.cosine, "shape after the warm-up; poly is (1 - t)^power, where t rises from 0 to 1"
    )
    power: float = setting(0.9, "exponent of the poly schedule", low=0)
    warmup_steps: int | None = setting(None, "number of linear warm-up steps; null: a tenth of all steps", low=0)


@dataclass(kw_only=True, slots=True)
class TrainerConfig:
    """Where and how a run is executed. These keys change results only by rounding and through batch norm."""

    accelerator: Accelerator = setting(Accelerator.auto, "auto: GPUs if available, otherwise the CPU")
    devices: int | None = setting(
        None, "number of processes, one per device; null: all GPUs, or one process on the CPU", low=1
    )
    precision: Precision = setting(
        Precision.auto,
        "precision of the forward and backward pass (weights are always fp32); auto: bf16 on GPUs that support it, "
        "otherwise fp32",
    )
    upsampling: Algorithm = setting(
        Algorithm.auto,
        "algorithm of the transposed convolutions; transposed: PyTorch's own; subpixel: convolution and pixel "
        "shuffle; auto: subpixel for factors of at least 8 on a CPU, the faster algorithm on a GPU",
    )
    accumulate: int = setting(
        1, "number of micro-batches per step and process (gradient accumulation); larger values save memory", low=1
    )
    sync_batchnorm: bool = setting(False, "synchronise batch norm across all processes, on GPUs only")
    val_every: int = setting(1, "number of epochs between validations; the last epoch is always validated", low=1)
    val_every_steps: int | None = setting(None, "the same in steps, for a run of steps=...; null: an epoch", low=1)
    val_batch_size: int | None = setting(
        None, "maximum number of equally sized images per validation batch; null: 1 on the CPU, 8 on a GPU", low=1
    )
    checkpoint_steps: int | None = setting(None, "steps between checkpoints within an epoch; null: disabled", low=1)
    checkpoint_minutes: float | None = setting(10, "minutes between checkpoints within an epoch; null: disabled", low=0)
    timeout_minutes: float | None = setting(
        30, "minutes without progress after which a run of several processes fails; null: no limit", low=0.01
    )
    log_every: int = setting(10, "number of steps between two points of the training curves", low=1)
    sample_images: int = setting(6, "number of validation images whose prediction is drawn at each validation", low=0)


@dataclass(kw_only=True, slots=True)
class Config:
    """A run. Every preset supports `lr`, `epochs` or `steps`, `batch_size`, `seed` and `name`."""

    name: str = setting("${data.name}", "folder below outputs/ in which the run directory is created")
    lr: float = setting(1e-3, "peak learning rate; the head uses lr x optim.head_lr_multiplier", low=0)
    epochs: int | None = setting(7, "number of epochs; 0: save the untrained network; null: steps is used", low=0)
    steps: int | None = setting(None, "number of optimiser steps, in place of epochs", low=1)
    batch_size: int = setting(16, "number of images per optimiser step over all processes", low=1)
    seed: int = setting(0, "seed of the initial weights, image order and augmentation", low=0, high=2**32 - 1)
    deterministic: bool = setting(
        False,
        "use only deterministic algorithms on a GPU; runs on a CPU are reproducible without this key, on the same "
        "machine with the same number of threads",
    )
    compile: bool = setting(False, "compile the network for training, which takes one to two minutes at the start")
    resume: str | None = setting(
        None, "run or sweep directory to resume with its own configuration; some keys of a run may change, see allow"
    )
    allow: list[str] = setting([], "keys that may change on resume; the result is then no longer bit-identical")
    rerun: str | None = setting(None, "finished run to repeat in a new run directory and compare bit for bit")
    execute: bool = setting(True, "execute the run; false: create only its directory, to be executed elsewhere")
    data: DataConfig = field(default_factory=DataConfig)
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)


@dataclass(kw_only=True, slots=True)
class InferenceConfig:
    """Inference on an image. Flip and scales average class probabilities."""

    inference: Inference = setting(
        Inference.whole, "whole: image at once; tiled: overlapping tiles whose logits are averaged where they overlap"
    )
    tile_size: list[int] = setting([320, 480], "height and width of a tile in pixels, multiples of 32", low=32)
    flip: bool = setting(False, "average the class probabilities of the image and its mirror image")
    scales: list[float] = setting(
        [1.0], "scales of the image, relative to native size, over which predictions are averaged", low=0.1, high=10
    )
    accelerator: Accelerator = setting(Accelerator.auto, "auto: a GPU if available, otherwise the CPU")


@dataclass(kw_only=True, slots=True)
class EvaluateConfig(InferenceConfig):
    """Evaluation of a run on a split."""

    run: str | None = setting(None, "run directory (its best checkpoint), folder of runs, or checkpoint file; required")
    data: DataConfig = field(default_factory=DataConfig)
    split: str | None = setting(None, "list of images in ImageSets/Segmentation; null: data.val_split")
    output: str | None = setting(
        None, "folder of the results; null: evaluation/<split> in the run, or a folder next to the checkpoint file"
    )
    batch_size: int | None = setting(
        None, "maximum number of equally sized images per batch; null: 1 on the CPU, 8 on a GPU", low=1
    )
    boundary_widths: list[int] = setting([1, 2, 4, 8, 16], "widths of the boundary bands to score, in pixels", low=1)
    worst: int = setting(12, "number of images to draw; the images with the lowest mean IoU are drawn", low=0)


@dataclass(kw_only=True, slots=True)
class ExportConfig:
    """File format of an export, and the inputs that verify it."""

    run: str | None = setting(None, "run directory (its best checkpoint, else its last) or .ckpt file; required")
    format: ExportFormat = setting(ExportFormat.onnx, "onnx, or torch_export (a .pt2 file for torch.export.load)")
    output: str | None = setting(None, "file to write; null: <run>/export/model.onnx or .pt2, or next to a .ckpt file")
    input: ImageType = setting(ImageType.uint8, "pixel type of the input; uint8: 0 to 255, float: 0 to 1")
    opset: int | None = setting(None, "version of the ONNX operator set; null: the exporter's default", low=18)
    sizes: list[list[int]] = setting(
        [[1, 1], [2, 3], [33, 47], [96, 128], [375, 500]], "heights and widths of the images used for verification"
    )
    batches: list[int] = setting([1, 2], "batch sizes used for verification", low=1)
    tolerance: float = setting(
        1e-3, "largest allowed error of the exported logits; relative to the largest logit if that is above 1", low=0
    )


def schema_fields(schema: type, prefix: str = "") -> dict[str, dataclasses.Field[Any]]:
    """Return every leaf key of a dataclass schema, dotted, with its field."""
    leaves: dict[str, dataclasses.Field[Any]] = {}
    for entry in dataclasses.fields(schema):
        factory = entry.default_factory
        if isinstance(factory, type) and dataclasses.is_dataclass(factory):
            leaves.update(schema_fields(factory, f"{prefix}{entry.name}."))
        else:
            leaves[f"{prefix}{entry.name}"] = entry
    return leaves

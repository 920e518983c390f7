"""Keys of a first training run that the images of a dataset and the memory of the machine suggest, with the reasons.

The idea is that of nnU-Net (Isensee et al. 2021), whose rules derive the crop from the median image and the batch from
the memory. docs/own_data.md lists the rules.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from fcn.config import AugmentationConfig, DataConfig
from fcn.config.overrides import format_value
from fcn.data.crop_statistics import NEARLY_ALL
from fcn.training.memory import Footprint, Machine

CropSize = tuple[int, int]

COARSEST_STRIDE = 32
CELLS = 7
"""Cells of the finest feature map that a small region covers on each axis, at least: fewer than half are its border."""
STRIDES = (32, 16, 8)
SMALLEST_BATCH = 2  # batch norm needs several images
STEPS_PER_EPOCH = 10  # at least; a small set needs small batches
MOST_EPOCHS = 200
MOST_VALIDATIONS = 20
VALIDATION_SHARE = 0.2
"""Whole images that are validated in a run as a share of the training crops, at most."""
RARE = 10
"""Weight of a class from which class weights are proposed: so many times rarer in its images than the median class."""
MANY_SINGLE = 1 / 3
"""Share of crops of a single class from which they are avoided; nnU-Net centres a third of its crops on foreground."""
MEMORY_SHARE = {True: 0.8, False: 0.5}
"""Share of the memory of a GPU (True) or of the main memory (False) that a step may take."""
GIB = 2**30


@dataclass(frozen=True)
class Recipe:
    """Settings of a kind of run from which a proposal starts.

    Attributes:
        overrides: keys of network, optimiser and schedule, with the reasons; {data} and {train} are
            the dataset and its training split.
        stride_key: key that sets the stride of the finest feature map, with {} in place of the stride.
        footprints: memory of the network by stride.
        batch_size: images per step, if memory and images suffice.
        largest_crop: largest side of a crop.
        num_crops: crops on which a run trains.
        scale: range of the random scale, if it is not that of the dataset.
        lr: learning rate of SGD at `batch_size`, in proportion to which it is set (Goyal et al. 2017); None: not set.
        cat_max_ratio: value of data.cat_max_ratio.
    """

    overrides: Mapping[str, str]
    stride_key: str
    footprints: Mapping[int, Footprint]
    batch_size: int
    largest_crop: int
    num_crops: int
    scale: tuple[float, float] | None = None
    lr: float | None = None
    cat_max_ratio: float = 1


RECIPES = {
    "cpu": Recipe(
        overrides={
            "experiment=voc_small": "a small network, because there is no GPU; downloads its ImageNet weights (19 MB), "
            "without internet access add backbone.weights=<state dict>",
            "name={data}": "folder of the run in outputs",
        },
        stride_key="model=fcn{}s",
        footprints={8: Footprint(1672, 3_100_000), 16: Footprint(1672, 3_430_000), 32: Footprint(1672, 4_770_000)},
        batch_size=8,
        largest_crop=256,
        num_crops=21_000,
        scale=(0.5, 1.5),
    ),
    "gpu": Recipe(
        overrides={
            "experiment=fcn_r50_d8": "a recipe of mmsegmentation for VOC; downloads ImageNet weights (102 MB), without "
            "internet access add backbone.weights=<state dict>",
            "name={data}": "folder of the run in outputs",
            "data.train_split={train}": "in place of the preset's train_aug",
            "data.augmentation.short_side=null": "trains at the native size, at which validation is",
        },
        stride_key="backbone.output_stride={}",
        footprints={
            8: Footprint(4365, 49_700_000, heads=2),
            16: Footprint(2193, 50_400_000, heads=2),
            32: Footprint(1893, 51_800_000, heads=2),
        },
        batch_size=16,
        largest_crop=512,
        num_crops=320_000,
        lr=0.01,
        cat_max_ratio=0.75,
    ),
    "shapes": Recipe(
        overrides={},
        stride_key="model=fcn{}s",
        footprints={8: Footprint(450, 11_300_000), 16: Footprint(450, 11_700_000), 32: Footprint(450, 13_000_000)},
        batch_size=16,
        largest_crop=256,
        num_crops=20_000,
    ),
}
"""cpu: the preset, 30 epochs of 700 images. gpu: the preset, 20,000 steps of 16 images. shapes: the defaults."""


@dataclass(frozen=True)
class Suggestion:
    """An override, or a key that keeps its default, with the reason."""

    text: str
    reason: str
    is_override: bool = True


@dataclass(frozen=True)
class Proposal:
    """A proposed run.

    Attributes:
        suggestions: overrides in the order of the command line, without those of the dataset.
        crops: statistics of the training crops, see `fcn.data.crop_statistics.crop_statistics`.
    """

    suggestions: list[Suggestion]
    crops: dict[str, Any]


def propose(
    data: DataConfig,
    train: Mapping[str, Any],
    *,
    num_val: int,
    machine: Machine,
    given: frozenset[str],
    measure_crops: Callable[[CropSize, AugmentationConfig], dict[str, Any]],
) -> Proposal:
    """Return the proposed keys of a run.

    Args:
        data: dataset.
        train: statistics of its training split, of `summarize` and `size_statistics`; it has a region.
        num_val: number of validation images.
        machine: devices of the run.
        given: keys that are set already, and therefore are not proposed.
        measure_crops: returns the statistics of training crops of a size with an augmentation.
    """
    recipe = RECIPES["shapes" if data.name == "shapes" else "gpu" if machine.num_gpus else "cpu"]
    names = {"data": data.name, "train": format_value(data.train_split)}
    augmentation = data.augmentation
    if recipe.scale and "data.augmentation.scale" not in given:
        augmentation = replace(augmentation, scale=list(recipe.scale))
    stride, model = _stride(recipe, train["region_side"], smallest_scale=augmentation.scale[0])
    step = _step(recipe, stride, train, data=data, machine=machine, is_crop_given="data.crop_size" in given)
    crops = measure_crops(step.crop_size, augmentation)
    suggestions = [
        *(Suggestion(override.format(**names), reason) for override, reason in recipe.overrides.items()),
        model,
        _crop(step, recipe, train),
        *_batch(step, recipe, machine, train["images"]),
        *_length(recipe, train["images"], num_val),
        _class_weights(train["classes"]),
        _single_class_crops(crops["single_class_share"], recipe),
    ]
    return Proposal([each for each in suggestions if each.text.partition("=")[0] not in given], crops)


def _stride(recipe: Recipe, side: Mapping[str, float], *, smallest_scale: float) -> tuple[int, Suggestion]:
    """Return the coarsest stride at which small regions cover some cells, also in crops of the smallest scale."""
    small = side["lower_quartile"] * smallest_scale
    stride = next((stride for stride in STRIDES if CELLS * stride <= small), STRIDES[-1])
    scaled = "" if smallest_scale == 1 else f" at the scale {smallest_scale}"
    reason = f"a quarter of the regions are smaller than {small / stride:.1f} x {small / stride:.1f} cells{scaled}"
    return stride, Suggestion(recipe.stride_key.format(stride), reason)


@dataclass(frozen=True)
class Step:
    """Images of an optimiser step.

    Attributes:
        crop_size: height and width of their crops.
        batch_size: number of crops.
        devices: number of devices that share them.
        needed: bytes that each device needs.
        available: bytes that each device may use.
    """

    crop_size: CropSize
    batch_size: int
    devices: int
    needed: int
    available: int


def _step(
    recipe: Recipe, stride: int, train: Mapping[str, Any], *, data: DataConfig, machine: Machine, is_crop_given: bool
) -> Step:
    """Return the largest step that fits into the memory: first the batch is made smaller, then the crop."""
    batch = _batch_limit(recipe, train["images"])
    devices = max(1, machine.num_gpus) if batch >= SMALLEST_BATCH * machine.num_gpus else 1
    batch -= batch % devices
    crop = (data.crop_size[0], data.crop_size[1]) if is_crop_given else _median_crop(recipe, train)
    available = int(MEMORY_SHARE[machine.num_gpus > 0] * machine.memory)
    while True:
        needed = recipe.footprints[stride].of_step(batch // devices, crop, num_classes=len(data.classes))
        if needed > available and batch // devices > SMALLEST_BATCH:
            batch = max(SMALLEST_BATCH, batch // devices // 2) * devices
        elif needed > available and max(crop) > COARSEST_STRIDE and not is_crop_given:
            height, width = crop
            crop = (height - COARSEST_STRIDE, width) if height >= width else (height, width - COARSEST_STRIDE)
        else:
            return Step(crop, batch, devices, needed, available)


def _batch_limit(recipe: Recipe, num_images: int) -> int:
    limit = min(recipe.batch_size, max(SMALLEST_BATCH, num_images // STEPS_PER_EPOCH), num_images)
    return 1 << (limit.bit_length() - 1)


def _median_crop(recipe: Recipe, train: Mapping[str, Any]) -> CropSize:
    medians = (train[axis]["median"] for axis in ("height", "width"))
    height, width = (int(min(side, recipe.largest_crop)) // COARSEST_STRIDE * COARSEST_STRIDE for side in medians)
    return max(COARSEST_STRIDE, height), max(COARSEST_STRIDE, width)


def _crop(step: Step, recipe: Recipe, train: Mapping[str, Any]) -> Suggestion:
    height, width = (train[axis]["median"] for axis in ("height", "width"))
    reason = f"median image {height:.0f}x{width:.0f}; sides of at most {recipe.largest_crop}, multiples of 32"
    if step.crop_size != _median_crop(recipe, train):
        reason += ", and smaller to fit into the memory"
    if (median := train["region_side"]["median"]) > min(step.crop_size):
        reason += f"; half of the regions ({median:.0f}x{median:.0f} or more) are larger: scale the images down first"
    return Suggestion("data.crop_size=[{},{}]".format(*step.crop_size), reason)


def _batch(step: Step, recipe: Recipe, machine: Machine, num_images: int) -> list[Suggestion]:
    least = f"at least {STEPS_PER_EPOCH} steps per epoch"
    if num_images < SMALLEST_BATCH * STEPS_PER_EPOCH:
        smallest = min(SMALLEST_BATCH, num_images)
        least = f"at least {smallest}; {num_images} images are too few for {STEPS_PER_EPOCH} steps per epoch"
    images = f"at most {recipe.batch_size}, and {least}"
    kind = "of the GPU" if machine.num_gpus else "of the main memory"
    share = f"{MEMORY_SHARE[machine.num_gpus > 0]:.0%} {kind}"
    memory = f"a step takes about {step.needed / GIB:.2g} GiB, and may take {step.available / GIB:.3g} ({share})"
    suggestions = [Suggestion(f"batch_size={step.batch_size}", f"{images}; {memory}")]
    if recipe.lr is not None:
        lr = recipe.lr * step.batch_size / recipe.batch_size
        suggestions.append(Suggestion(f"lr={lr:g}", f"{recipe.lr} for {recipe.batch_size} images, in proportion"))
    if step.devices < machine.num_gpus:
        suggestions.append(Suggestion("trainer=gpu", "the batch is too small for all GPUs"))
    return suggestions


def _length(recipe: Recipe, num_images: int, num_val: int) -> list[Suggestion]:
    epochs = min(MOST_EPOCHS, max(1, round(recipe.num_crops / num_images)))
    num_crops = epochs * num_images
    validations = min(MOST_VALIDATIONS, max(1, int(VALIDATION_SHARE * num_crops / num_val)))
    every = math.ceil(epochs / validations)
    reason = f"{num_crops:,} crops; the aim is {recipe.num_crops:,} in at most {MOST_EPOCHS} epochs"
    validated = (
        f"{math.ceil(epochs / every) * num_val:,} images are validated; the aim is a fifth of the crops or fewer"
    )
    return [Suggestion(f"epochs={epochs}", reason), Suggestion(f"trainer.val_every={every}", validated)]


def _class_weights(classes: Mapping[str, Mapping[str, Any]]) -> Suggestion:
    weights = {name: row["weight"] for name, row in classes.items() if row["weight"] is not None}
    rarest = max(weights, key=lambda name: weights[name])
    reason = f"{rarest} is {weights[rarest]:.1f} times rarer in its images than the median class"
    if weights[rarest] > RARE:
        return Suggestion("loss.class_weights=median_frequency", f"{reason}, more than {RARE} times")
    return Suggestion("loss.class_weights=null", f"unchanged: {reason}, not {RARE} times", is_override=False)


def _single_class_crops(share: float, recipe: Recipe) -> Suggestion:
    reason = f"{share:.0%} of the crops are at least {NEARLY_ALL:.0%} one class"
    if share > MANY_SINGLE and recipe.cat_max_ratio > NEARLY_ALL:
        return Suggestion(f"data.cat_max_ratio={NEARLY_ALL}", f"{reason}, more than a third: they are drawn again")
    return Suggestion(f"data.cat_max_ratio={recipe.cat_max_ratio:g}", f"unchanged: {reason}", is_override=False)

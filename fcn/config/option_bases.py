"""Base classes of the options of the groups, with the keys that all options of a group share.

The options are in the modules of `fcn.config.components.MODULES`.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcn.config.augmentation import AugmentationConfig
from fcn.config.choices import Protocol
from fcn.config.components import Component, NamedComponent, setting

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from pytorch_lightning import Callback
    from pytorch_lightning.loggers import Logger
    from torch import Tensor
    from torch.optim import Optimizer
    from typing_extensions import Self

    from fcn.config.schema import Config

IGNORE_INDEX = 255
"""Mask value of void pixels, which are ignored by losses and metrics."""

FOLD = "fold"
"""Name of the split that validates a run with `data.fold`."""

VOC_CLASSES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip


@dataclass(kw_only=True)
class DataConfig(NamedComponent):
    """Dataset, crops and loading. Validation always uses whole images at native size."""

    root: str = setting(
        "data",
        "folder of the dataset, for data=voc the one that contains VOCdevkit/VOC2012 or JPEGImages",
    )
    train_split: str = setting(
        "train",
        "training split: a list in ImageSets/Segmentation, whose lines are image ids, or name image and mask; under "
        "data=folders also a list in data.root, or a sub-folder of the images",
    )
    val_split: str = setting("val", "validation split, as data.train_split; data.fold replaces it")
    fold: int | None = setting(
        None,
        "cross-validation: number of the part of data.train_split that validates, from 0; the other parts train; null: "
        "data.val_split validates",
        low=0,
    )
    folds: int = setting(5, "number of parts of data.train_split under data.fold", low=2)
    split_seed: int = setting(
        0, "seed of random divisions of data.train_split, which is independent of the seed of the run", low=0
    )
    classes: list[str] = setting(list(VOC_CLASSES), "class names in the order of the mask indices; 0 is the background")
    protocol: Protocol = setting(
        Protocol.voc,
        "voc: void pixels (mask value 255) are ignored; d2l: as in the d2l chapter, training treats void as "
        "background and drops images smaller than the crop, and the metrics d2l/... are logged in addition",
    )
    crop_size: list[int] = setting([320, 480], "height and width of the training crop in pixels", low=1)
    cat_max_ratio: float = setting(
        1.0,
        "a crop is drawn again, up to 10 times, while one class has at least this share of its pixels without void, as "
        "in mmsegmentation; 1: never",
        low=0.01,
        high=1,
    )
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    num_workers: int | None = setting(
        None, "number of data loader processes per device; it does not affect the results; null: automatic", low=0
    )
    cache: bool = setting(True, "decode each image only once, into a file that all processes and runs share")
    cache_dir: str | None = setting(None, "folder of the cache; null: the folder cache/ in the root of the dataset")
    limit: int | None = setting(None, "number of images of each split that are used, the first ones; null: all", low=1)
    on_device: bool = setting(False, "keep the training images in GPU memory and crop them on the GPU")

    @property
    def validation_split(self) -> str:
        """Name of the split that validates the run: `FOLD` if training images are divided into folds."""
        return self.val_split if self.fold is None else FOLD

    def locate(self, *, prepare: bool) -> Path:
        """Return the folder of the dataset; in VOC's layout, the folder that contains VOCdevkit/VOC2012.

        Args:
            prepare: whether missing data are drawn or downloaded first.

        Raises:
            DataError: if the dataset cannot be drawn or downloaded.
        """
        return Path(self.root)

    def entries(self, root: Path, split: str) -> Sequence[Callable[[], Any]] | None:
        """Return a function for every image of a split, which returns its `fcn.data.split_lists.Pair`.

        Args:
            root: the folder that `locate` returns.
            split: name of the split.

        Returns:
            The functions, or None for VOC's layout. A function raises DataError if its image or mask is missing.

        Raises:
            DataError: if the dataset or the split is missing.
        """
        return None

    def reader(self) -> Any:
        """Build the reader of images and masks, a `fcn.data.pair_reader.PairReader`; None: the one of VOC's files."""
        return None


@dataclass(kw_only=True)
class BackboneConfig(NamedComponent):
    """Backbone: the feature maps of a classification network."""

    weights: str = setting("none", "initial weights: none (random), imagenet (torchvision V1), or path of a state dict")
    trainable: bool = setting(True, "train the backbone; false freezes its weights and its batch norm statistics")
    lr_multiplier: float = setting(1.0, "factor of the learning rate for the backbone", low=0)

    @property
    def smallest_part(self) -> int:
        """Smallest number of images in a forward pass of training."""
        return 1

    def untrained(self) -> Self:
        return dataclasses.replace(self, weights="none")

    def describe(self) -> str:
        """Return name and weights for the header of a run."""
        return f"{self.name} (weights: {self.weights})"

    @abstractmethod
    def build(self) -> Any:
        """Build the backbone, a module with the interface of `fcn.models.backbones.Backbone`.

        Raises:
            ConfigError: if the keys do not fit the network.
            WeightsError: if the weights cannot be loaded or do not fit.
        """


@dataclass(kw_only=True)
class ModelConfig(NamedComponent):
    """Segmentation network on a backbone."""

    freeze_batchnorm: bool = setting(False, "keep batch norm statistics, scale and shift at their initial values")
    init_from: str | None = setting(None, "run or checkpoint from which all matching weights are copied at the start")

    @property
    def smallest_part(self) -> int:
        """Smallest number of images in a forward pass of training."""
        return 1

    def describe(self, config: Config) -> str:
        """Return network, backbone and weights for the header of a run."""
        return f"{self.name} on {config.backbone.describe()}"

    @abstractmethod
    def build(self, config: Config) -> Any:
        """Build the network, a module that returns logits [N, C, H, W] of normalised images, float [N, 3, H, W].

        It has a method `head_parameters`, which returns the parameters outside the backbone.

        Args:
            config: configuration of the run, with the backbone and the classes.

        Raises:
            ConfigError: if model and backbone cannot be combined.
            WeightsError: if weights cannot be loaded or do not fit.
        """


@dataclass(kw_only=True)
class LossConfig(NamedComponent):
    """Loss, in which void pixels do not count."""

    def describe(self) -> str:
        """Return name and keys for the header of a run."""
        keys = {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(self)}
        values = [f"{key} {value}" for key, value in keys.items() if key != "name" and value is not None]
        return f"{self.name} ({', '.join(values)})" if values else self.name

    def comparable_lr(self, config: Config) -> float | None:
        """Return the learning rate with which the mean loss would take the same step; None if this is a mean loss."""
        return None

    @abstractmethod
    def build(self, class_counts: Callable[[], NDArray[np.int64]]) -> Any:
        """Build the loss, an object with the interface of `fcn.training.losses.base.Loss`.

        Args:
            class_counts: returns the number of pixels of each class in each training mask, int64 [images, classes].
                It reads all masks, and is therefore called only if the loss depends on them.

        Raises:
            ConfigError: if the keys do not fit the training masks.
        """


@dataclass(kw_only=True)
class OptimConfig(NamedComponent):
    """Optimiser; its learning rate is the top-level key `lr`."""

    weight_decay: float = setting(
        1e-4, "weight decay of convolution weights; biases, norm layers and frozen kernels are not decayed", low=0
    )
    decay_all: bool = setting(False, "apply weight decay to biases and norm layers too, as the d2l chapter does")
    head_lr_multiplier: float = setting(1.0, "factor of the learning rate for the head", low=0)
    bias_lr_multiplier: float = setting(1.0, "factor of the learning rate for biases; Long et al. use 2", low=0)
    clip_norm: float | None = setting(None, "L2 norm to which the gradient of a step is clipped; null: none", low=1e-6)
    is_fused = False  # whether the implementation is one kernel for a whole step

    @abstractmethod
    def build(self, groups: list[dict[str, Any]], lr: float) -> Optimizer:
        """Build the optimiser over parameter groups, which hold their own `lr` and `weight_decay`."""


@dataclass(kw_only=True)
class ScheduleConfig(NamedComponent):
    """Learning rate schedule: a factor of `lr`, updated at every step."""

    @abstractmethod
    def factor(self, step: int, total_steps: int) -> float:
        """Return the factor of the peak learning rate at an optimiser step.

        Args:
            step: number of steps taken before, from 0.
            total_steps: steps of the whole run.
        """

    def longer_warmup(self, total_steps: int) -> str | None:
        """Return the override of a longer warm-up, as a remedy for divergence; None if there is none."""
        return None


@dataclass(kw_only=True)
class TransformConfig(Component):
    """Random change of a training crop, after the augmentation of `data.augmentation`."""

    @abstractmethod
    def build(self) -> Callable[[Tensor, Tensor, np.random.Generator], tuple[Tensor, Tensor]]:
        """Build the transform.

        Returns:
            A function of image, uint8 [3, h, w], mask, uint8 [h, w], and random generator, which returns image and mask
            of the same sizes and types. It must draw random numbers from the generator alone, which depends on the seed
            of the run, the epoch, the image and the name of the transform.
        """


@dataclass(kw_only=True)
class CallbackConfig(Component):
    """Callback of Lightning.

    Attributes:
        changes_result: whether weights or scores of a run depend on it; if not, a run can be resumed with or without.
    """

    changes_result = True

    @abstractmethod
    def build(self, config: Config, run_dir: Path) -> Callback:
        """Build the callback.

        Args:
            config: configuration of the run.
            run_dir: run directory.
        """


@dataclass(kw_only=True)
class LoggerConfig(Component):
    """Logger that receives the scalars of a run and, if it can store them, its pictures and configuration."""

    @abstractmethod
    def build(self, config: Config, run_dir: Path, step: int) -> Logger:
        """Build the logger; called in rank 0 only, at the start of training.

        If it fails, now or later, a warning says so, and training continues without it. `check` is called when a run is
        composed, and not when a saved run is read.

        Args:
            config: configuration of the run.
            run_dir: run directory. A service that has its own id of the run can save it there to continue that run
                later, see `fcn.runs.logger_ids`.
            step: number of optimiser steps already made, more than 0 in a resumed run. Points after it, which the last
                execution may have logged, are logged again.

        Returns:
            A logger of Lightning. `log_hyperparams` receives the configuration by dotted key, `log_metrics` scalars by
            name with the number of steps made, `log_image(key, images, step)`, if it exists, a list of one PIL image.
            `save` is called before every checkpoint, and `finalize` at the end, with "success", "failed" or "aborted"
            for a run that was interrupted.
        """

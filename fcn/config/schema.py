"""Schema of the configuration of a run: every key with its default, meaning, unit and range.

The keys of a group are in `fcn.config.option_bases`, as far as all its options share them, and in the options. The YAML
files of conf/ list differences from these defaults.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from fcn.config.choices import Accelerator, Algorithm, Layout, Precision, ProfilerName
from fcn.config.components import default_option, list_of_options, setting
from fcn.config.option_bases import (
    BackboneConfig,
    CallbackConfig,
    DataConfig,
    LoggerConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    ScheduleConfig,
    TransformConfig,
)

AUTO = "auto"
IntOrAuto = int | str
"""A whole number, or `AUTO`. OmegaConf reads no enumeration that is one of several types from text."""


@dataclass(kw_only=True, slots=True)
class TrainerConfig:
    """Where and how a run is executed. These keys change results only by rounding and through batch norm."""

    accelerator: Accelerator = setting(Accelerator.auto, "auto: GPUs if available, otherwise the CPU")
    devices: int | None = setting(
        None,
        "number of processes, one per device; null: all GPUs, or one process on the CPU",
        low=1,
        remedy="to choose GPUs, set the environment variable CUDA_VISIBLE_DEVICES=0,1",
    )
    dry_run_processes: int | None = setting(
        None,
        "number of processes of a dry run, in place of trainer.devices: train nothing, but make two steps of one of "
        "them on one device, and print what each process would do, send and need; null: train",
        low=1,
    )
    dry_run_batch_sizes: list[int] = setting(
        [],
        "values of batch_size for a dry run, which tries them in ascending order until one does not fit into the "
        "memory, and prints memory and speed of each; empty: only batch_size",
        low=1,
    )
    precision: Precision = setting(
        Precision.auto,
        "precision of the forward and backward pass (weights are always fp32); auto: bf16 on GPUs that support it, "
        "otherwise fp32; fastest: fp32 or bf16, whichever is faster according to a measurement at the start of the run",
    )
    layout: Layout = setting(
        Layout.auto,
        "memory layout of images and feature maps; auto: channels_last, but channels_first on CPUs with AVX2 only; "
        "fastest: the faster one according to a measurement at the start of the run",
    )
    upsampling: Algorithm = setting(
        Algorithm.auto,
        "algorithm of the transposed convolutions; transposed: PyTorch's own; subpixel: convolution and pixel "
        "shuffle; auto: subpixel for factors of at least 8 on a CPU, the faster algorithm on a GPU",
    )
    accumulate: IntOrAuto = setting(
        1,
        "number of micro-batches per step and process (gradient accumulation); larger values save memory; auto: as "
        "many as the memory requires, found by a trial before the first two steps",
        low=1,
    )
    activation_checkpointing: bool = setting(
        False,
        "compute the blocks of the backbone again in the backward pass instead of storing their activations; this "
        "saves memory, takes more time, and does not change the result",
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
    max_minutes: float | None = setting(
        None,
        "minutes after which a checkpoint is saved and the execution ends, to be continued with resume; null: no limit",
        low=0.01,
    )
    profiler: ProfilerName | None = setting(
        None,
        "profiler that writes to profile/ in the run directory; simple: time of each hook; advanced: cProfile of each "
        "hook; pytorch: trace and table of the operations of three steps; null: none",
    )
    detect_anomaly: bool = setting(
        False, "stop at the operation whose backward pass gives NaN, and show where it was called; slow"
    )
    log_every: int = setting(10, "number of steps between two points of the training curves", low=1)
    log_seconds: float | None = setting(
        30, "seconds between two progress lines within an epoch, where output is no terminal; null: none", low=0
    )
    sample_images: int = setting(6, "number of validation images whose prediction is drawn at each validation", low=0)

    @property
    def first_parts(self) -> int:
        """Number of micro-batches with which a run starts; `AUTO` starts with 1."""
        return 1 if isinstance(self.accumulate, str) else self.accumulate

    def with_measured(self, measured: Mapping[str, Any]) -> TrainerConfig:
        """Return the group with the values of `layout` and `precision`, where given, in place of `fastest`."""
        chosen: dict[str, Any] = {}
        if self.layout is Layout.fastest and "layout" in measured:
            chosen["layout"] = Layout(measured["layout"])
        if self.precision is Precision.fastest and "precision" in measured:
            chosen["precision"] = Precision(measured["precision"])
        return replace(self, **chosen)


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
        None,
        "run or sweep directory to resume with its own configuration, a folder above it, its checkpoint, or latest; "
        "some keys of a run may change, see allow",
    )
    autoresume: bool = setting(
        False, "resume the newest unfinished run of outputs/<name> with the same configuration, if there is one"
    )
    allow: list[str] = setting([], "keys that may change on resume; the result is then no longer bit-identical")
    rerun: str | None = setting(
        None, "finished run, or latest, to repeat in a new run directory and compare bit for bit"
    )
    execute: bool = setting(True, "execute the run; false: create only its directory, to be executed elsewhere")
    data: DataConfig = default_option("data", "shapes")
    backbone: BackboneConfig = default_option("backbone", "resnet18")
    model: ModelConfig = default_option("model", "fcn32s")
    loss: LossConfig = default_option("loss", "cross_entropy")
    optim: OptimConfig = default_option("optim", "adamw")
    schedule: ScheduleConfig = default_option("schedule", "cosine")
    transforms: dict[str, TransformConfig] = list_of_options("transforms")
    callbacks: dict[str, CallbackConfig] = list_of_options("callbacks")
    logger: dict[str, LoggerConfig] = list_of_options("logger", "tensorboard")
    trainer: TrainerConfig = field(default_factory=TrainerConfig)

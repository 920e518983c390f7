"""Rules of the group trainer: conditions between its keys, and between them and the rest of a run."""

from __future__ import annotations

from dataclasses import replace

from fcn.config.choices import Accelerator, Precision
from fcn.config.schema import AUTO, Config
from fcn.errors import ConfigError


def check_trainer(config: Config) -> None:
    """Check the conditions on the keys of the group trainer.

    Raises:
        ConfigError: naming key, value, rule and remedy of the first rule that is broken.
    """
    trainer = config.trainer
    if isinstance(trainer.accumulate, str) and trainer.accumulate != AUTO:
        raise ConfigError(
            f"trainer.accumulate (={trainer.accumulate}) must be a whole number or {AUTO}; use "
            f"trainer.accumulate={AUTO}"
        )
    if trainer.dry_run_batch_sizes and trainer.dry_run_processes is None:
        sizes = ",".join(map(str, trainer.dry_run_batch_sizes))
        raise ConfigError(
            f"trainer.dry_run_batch_sizes (=[{sizes}]) must be empty without a dry run; set trainer.dry_run_processes=1"
        )
    if trainer.dry_run_processes is not None and trainer.accumulate == AUTO:
        raise ConfigError(
            f"trainer.accumulate (={AUTO}) must be a number with trainer.dry_run_processes "
            f"(={trainer.dry_run_processes}), because a dry run measures steps of one kind; use trainer.accumulate=1"
        )
    for batch_size in trainer.dry_run_batch_sizes or [config.batch_size]:
        check_batch_size(replace(config, batch_size=batch_size), trainer.dry_run_processes or trainer.devices or 1)
    if trainer.precision is Precision.fp16 and trainer.accelerator is Accelerator.cpu:
        raise ConfigError("trainer.precision (=fp16) must run on a GPU; use bf16 or fp32 on the CPU")
    if trainer.activation_checkpointing:
        _check_activation_checkpointing(config)


def _check_activation_checkpointing(config: Config) -> None:
    if config.compile:
        raise ConfigError(
            "trainer.activation_checkpointing (=true) must be false with compile=true, which chooses by itself what it "
            "computes again; leave one out"
        )
    if not config.backbone.trainable:
        raise ConfigError(
            "trainer.activation_checkpointing (=true) has no effect with backbone.trainable=false, whose activations "
            "are not stored; leave it out"
        )


def check_batch_size(config: Config, processes: int) -> None:
    """Check that `processes` can share a batch; their number is known only when a run starts.

    Raises:
        ConfigError: if they cannot.
    """
    if config.batch_size % processes:
        raise ConfigError(
            f"batch_size (={config.batch_size}) must be divisible by the number of processes (={processes}), which "
            f"share its images; use batch_size={max(1, config.batch_size // processes) * processes}"
        )
    parts = config.trainer.first_parts
    if config.batch_size // processes % parts:
        raise ConfigError(
            f"trainer.accumulate (={parts}) must divide the {config.batch_size // processes} images of a process "
            f"into equal parts; use a divisor, or batch_size={processes * parts}"
        )
    if processes > 1 and config.trainer.accumulate == AUTO and config.trainer.sync_batchnorm:
        raise ConfigError(
            f"trainer.accumulate (={AUTO}) must be a number with trainer.sync_batchnorm=true and several processes, "
            "which exchange statistics within a part that may not fit into the memory of each; use trainer.accumulate=2"
        )
    name, smallest = smallest_part(config)
    if config.batch_size < smallest * processes * parts:
        raise ConfigError(
            f"batch_size (={config.batch_size}) must be at least {smallest} per process and part for {name}, because "
            f"its image pooling uses batch norm; use batch_size={smallest * processes * parts}, or "
            "model.freeze_batchnorm=true"
        )


def check_trains(config: Config) -> None:
    """Check that a configuration is not that of a dry run, for which train.py creates no run directory.

    Raises:
        ConfigError: if it is.
    """
    if config.trainer.dry_run_processes is not None:
        raise ConfigError(
            f"trainer.dry_run_processes (={config.trainer.dry_run_processes}) must be null except in a single "
            "train.py command, because it trains nothing; leave it out"
        )


def smallest_part(config: Config) -> tuple[str, int]:
    """Return the smallest number of images in a forward pass of training, after the name of what needs it."""
    if config.model.freeze_batchnorm:
        return config.model.name, 1
    smallest = {part.name: part.smallest_part for part in (config.model, config.backbone)}
    return max(smallest.items(), key=lambda item: item[1])

"""Lightning's Trainer with the arguments of a run: device, precision, processes (DDP), validation intervals."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytorch_lightning as pl
import rich
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.loggers import Logger
from pytorch_lightning.profilers import Profiler
from pytorch_lightning.strategies import DDPStrategy

from fcn.config import Config, ConfigError, check_batch_size
from fcn.config.choices import Precision
from fcn.models.device import choose_device
from fcn.training.checkpointing import AtomicCheckpointIO
from fcn.training.compute import chosen_precision
from fcn.training.console import NotebookProgress, ProgressBar, ProgressLines

PRECISIONS = {Precision.fp32: "32-true", Precision.bf16: "bf16-mixed", Precision.fp16: "16-mixed"}


class LastEpochValidation(pl.Callback):
    """Validates after the last epoch, even if `trainer.val_every` does not divide the number of epochs.

    An epoch may be a shorter round, see `fcn.data.sampling.Rounds`.
    """

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Otherwise a validation would be due only after as many steps as the first round has.
        trainer.val_check_batch = math.inf
        # In an epoch that is resumed after its first step, Lightning does not call on_train_epoch_start.
        self.on_train_epoch_start(trainer, pl_module)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch + 1 == trainer.max_epochs:
            # Lightning has no option for this, but reads this public attribute after every step (tested with 2.6.6).
            trainer.check_val_every_n_epoch = 1


def build_trainer(
    config: Config,
    *,
    callbacks: list[pl.Callback],
    loggers: Sequence[Logger] = (),
    profiler: Profiler | None = None,
    max_steps: int | None = None,
) -> pl.Trainer:
    """Return the trainer of this process.

    The environment variables LOCAL_WORLD_SIZE and WORLD_SIZE, set by torchrun, give the number of processes on this
    machine and on all machines.

    Args:
        config: configuration of the run.
        callbacks: callbacks besides those for progress and for the validation after the last epoch.
        loggers: loggers of Lightning.
        profiler: profiler of Lightning.
        max_steps: number of steps after which training ends without a validation, and without showing its progress;
            None: the steps of the run.

    Raises:
        ConfigError: if the configuration does not fit the number of processes or needs a GPU that is not available.
    """
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    world = int(os.environ.get("WORLD_SIZE", "1"))
    on_gpu = choose_device(config.trainer.accelerator, key="trainer.accelerator").type == "cuda"
    check_batch_size(config, world)
    sync_batchnorm = config.trainer.sync_batchnorm and world > 1
    if not on_gpu:
        _check_runs_without_gpu(config, sync_batchnorm=sync_batchnorm)
    progress = [_build_progress(config)] if max_steps is None else []
    return pl.Trainer(
        accelerator="gpu" if on_gpu else "cpu",
        devices=local,
        num_nodes=world // local,
        strategy=_ddp(config, on_gpu=on_gpu) if world > 1 else "auto",
        precision=PRECISIONS[chosen_precision(config, on_gpu=on_gpu)],  # type: ignore[arg-type]
        benchmark=on_gpu and not config.deterministic,
        deterministic=on_gpu and config.deterministic,
        sync_batchnorm=sync_batchnorm,
        max_epochs=-1,  # the data module sets it, because it knows the number of steps
        max_steps=-1 if max_steps is None else max_steps,
        limit_val_batches=None if max_steps is None else 0,
        check_val_every_n_epoch=config.trainer.val_every,
        callbacks=[LastEpochValidation(), *callbacks, *progress],
        # The environment is explicit: in a SLURM job Lightning would use SLURM's variables and requeue by itself.
        plugins=[AtomicCheckpointIO(), TorchElasticEnvironment() if world > 1 else LightningEnvironment()],
        profiler=profiler,
        detect_anomaly=config.trainer.detect_anomaly,
        logger=list(loggers),
        log_every_n_steps=config.trainer.log_every,  # of values that callbacks log themselves
        enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks),
        enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in progress),
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # the samplers of the data module distribute the images
        default_root_dir=os.curdir,
    )


def stop_reason(trainer: pl.Trainer) -> str:
    """Return why a callback ended training before the last step of the run; an empty string if none did."""
    data, callbacks = trainer.datamodule, trainer.callbacks  # type: ignore[attr-defined]
    if trainer.global_step >= data.total_steps:
        return ""
    reasons: Any = (getattr(callback, "stopping_reason_message", None) for callback in callbacks)
    return next(filter(None, reasons), "a callback stopped training")


def _build_progress(config: Config) -> pl.Callback:
    """Return the bar of a terminal or of a notebook, or lines where there is neither."""
    console = rich.get_console()  # that of Lightning's progress bar
    if sys.stdout.isatty() and console.is_terminal:
        return ProgressBar(leave=False)
    return NotebookProgress(config) if console.is_jupyter else ProgressLines(config)


def _check_runs_without_gpu(config: Config, *, sync_batchnorm: bool) -> None:
    if sync_batchnorm:
        raise ConfigError("trainer.sync_batchnorm (=true) needs GPUs; use model.freeze_batchnorm=true")
    if config.data.on_device:
        raise ConfigError("data.on_device (=true) needs a GPU; use data.on_device=false")


def _ddp(config: Config, *, on_gpu: bool) -> DDPStrategy:
    minutes = config.trainer.timeout_minutes
    return DDPStrategy(
        process_group_backend="nccl" if on_gpu else "gloo",
        # The statistics of batch norm are broadcast before validation (see the task): ranks may validate different
        # numbers of batches, so that a broadcast in every step would never complete.
        broadcast_buffers=False,
        gradient_as_bucket_view=True,
        # The watchdog ends stalled runs earlier; this is for a run whose watchdogs have all failed.
        timeout=timedelta(days=10_000) if minutes is None else timedelta(minutes=max(4 * minutes, 1)),
    )

"""The Python API that the commands call: train a configuration into a run directory."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import traceback
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from lightning_fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from pytorch_lightning.strategies import DDPStrategy

from fcn import config as configuration
from fcn import errors, runs
from fcn.config import (
    Config,
    ConfigError,
    Precision,
    check_batch_size,
)
from fcn.config.overrides import values_by_key
from fcn.data.module import VOCDataModule
from fcn.models.device import choose_device, device_name
from fcn.models.weights import copy_fitting
from fcn.runs import Status, checkpoints, provenance
from fcn.runs.checkpoints import CheckpointError, network_weights
from fcn.training.checkpointing import AtomicCheckpointIO, SavePoints
from fcn.training.compute import chosen_precision
from fcn.training.console import ProgressBar, logging_to
from fcn.training.recording import RunRecorder, one_line
from fcn.training.run_header import Announcement, model_line
from fcn.training.task import SegmentationTask
from fcn.training.watchdog import Watch

log = logging.getLogger(__name__)

PRECISIONS = {Precision.fp32: "32-true", Precision.bf16: "bf16-mixed", Precision.fp16: "16-mixed"}

HPARAMS = (
    "model.name", "model.init", "backbone.name", "backbone.weights", "data.name", "loss.reduction",
    "optim.name", "schedule.name", "lr", "batch_size", "epochs", "seed",
)  # fmt: skip
"""Keys that every run shows in TensorBoard's HPARAMS tab; those typed for a run are shown as well."""


def train(config: Config, run_dir: Path | None = None) -> dict[str, float]:
    """Train and validate; fill a run directory; go on where it stopped if it holds a checkpoint.

    One process, or one rank of several: how many there are is read from the environment that torchrun sets.

    Args:
        config: the run. With a `run_dir` that holds a run already, its own configuration.
        run_dir: created if need be; by default a new one, outputs/<name>/<time>.

    Returns:
        The final metrics by their names in summary.json.

    Raises:
        ConfigError, DataError, WeightsError: before the first step, if the run cannot be made, or another process is
            executing it.
        TrainingDiverged: if the loss becomes NaN or infinite.
        RunFailure: after a failure of the system or a bug; what was saved stays.
        SystemExit: with 128 + signal, after one of `runs.STOP_SIGNALS` and with a checkpoint to go on from.
    """
    config = configuration.from_container(configuration.to_container(config))  # checked, references resolved
    run_dir = run_dir or Path("outputs", config.name, f"{datetime.now():%Y-%m-%d_%H-%M-%S}")
    if not (run_dir / runs.CONFIG).exists():
        runs.create(run_dir, config)
    with _alone(run_dir):
        if runs.read_status(run_dir) is Status.finished:
            print(f"{run_dir} is finished: nothing to do")
            return runs.final_metrics(run_dir)
        # The seed decides the initial weights; everything later is seeded by what it is for.
        pl.seed_everything(config.seed, verbose=False)
        trainer = config.trainer
        savepoints = SavePoints(run_dir, steps=trainer.checkpoint_steps, minutes=trainer.checkpoint_minutes)
        with logging_to(run_dir / runs.LOG), savepoints, _failures_told(config, run_dir, savepoints):
            if int(os.environ.get("RANK", "0")) == 0:
                provenance.save_diff(run_dir)
            return _fit(config, run_dir, savepoints) if config.epochs else _keep_untrained(config, run_dir)


def _alone(run_dir: Path) -> contextlib.AbstractContextManager[None]:
    """Of all processes that share a run, rank 0 holds the directory."""
    return runs.locked(run_dir) if int(os.environ.get("RANK", "0")) == 0 else contextlib.nullcontext()


@contextlib.contextmanager
def _failures_told(config: Config, run_dir: Path, savepoints: SavePoints) -> Iterator[None]:
    """Tracebacks go into the log; what the system or a library raises becomes a line that says how to go on."""
    try:
        yield
    except Exception as error:
        with contextlib.suppress(OSError), open(run_dir / runs.LOG, "a", encoding="utf-8") as file:
            traceback.print_exc(file=file)
        if isinstance(error, errors.UserError):
            raise
        values = configuration.flatten(configuration.to_container(config))
        line = errors.describe_failure(error, values)
        if line is None:
            raise errors.RunFailure(errors.describe_bug(error, log=run_dir / runs.LOG)) from error
        step = savepoints.saved_step
        then = f"goes on from step {step}" if step else "begins anew, as nothing was saved yet"
        raise errors.RunFailure(f"{line}; then resume={run_dir} {then}") from error


def _keep_untrained(config: Config, run_dir: Path) -> dict[str, float]:
    """The run of 0 epochs: the network as it is initialised, to be evaluated, used and exported like a trained one."""
    task = build_task(config)
    if int(os.environ.get("RANK", "0")) == 0:
        checkpoint = {"config": configuration.to_container(config), "state_dict": task.state_dict()}
        AtomicCheckpointIO().save_checkpoint(checkpoint, run_dir / runs.LAST)
        overrides = runs.load_overrides(run_dir)
        summary = {"status": Status.finished, "metrics": {}, "overrides": overrides, **provenance.provenance()}
        runs.write_summary(run_dir, summary)
        log.info("model    %s", model_line(config))
        log.info("not trained (epochs=0); the network is in %s", run_dir / runs.LAST)
    return {}


def _fit(config: Config, run_dir: Path, savepoints: SavePoints) -> dict[str, float]:
    watch = Watch(config.trainer.timeout_minutes, run_dir)
    recorder = RunRecorder(run_dir, savepoints, hyperparameters(config, run_dir))
    trainer = build_trainer(config, callbacks=[watch, Announcement(config, run_dir), recorder, savepoints])
    status = Status.failed
    try:
        last = checkpoints.newest(run_dir)
        task, data = SegmentationTask(config) if last else build_task(config), VOCDataModule(config)
        trainer.fit(task, datamodule=data, ckpt_path=last, weights_only=True)
        status = Status.finished
    except (SystemExit, KeyboardInterrupt):
        status = Status.interrupted
        log.info("interrupted at step %d; go on with resume=%s", trainer.global_step, run_dir)
        raise
    finally:
        if trainer.is_global_zero:
            recorder.finish(trainer, status)
    devices = f"{trainer.world_size} x {device_name(trainer.strategy.root_device)}"
    log.info("%s, %.1f images/s on %s", one_line(recorder.metrics), recorder.images_per_second, devices)
    return recorder.metrics


def build_task(config: Config) -> SegmentationTask:
    """Task with its initial weights; those that come from another run are named in the log.

    Raises:
        ConfigError: if `model.init_from` is neither a run nor a checkpoint, or nothing in it fits.
        WeightsError: if the weights of the trunk, or published ones, cannot be had or do not fit.
    """
    task, run = SegmentationTask(config), config.model.init_from
    if run is None:
        return task
    try:
        copied, kept, left = copy_fitting(task.network.model, network_weights(run))
    except CheckpointError as error:
        raise ConfigError(f"model.init_from (={run}) must be a run or a checkpoint: {error}") from error
    if not copied:
        raise ConfigError(f"model.init_from (={run}) must fit the network somewhere; use a run of the same backbone")
    log.info("weights  %d of %d tensors copied from %s", len(copied), len(copied) + len(kept), run)
    for name, names in (("as initialised", kept), ("not taken over", left)):
        if names:
            log.info("         %s: %s", name, ", ".join(names if len(names) <= 12 else [*names[:12], "..."]))
    return task


def build_trainer(config: Config, *, callbacks: list[pl.Callback]) -> pl.Trainer:
    """Trainer for this process, which is one of LOCAL_WORLD_SIZE on this machine and of WORLD_SIZE in all."""
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    world = int(os.environ.get("WORLD_SIZE", "1"))
    on_gpu = choose_device(config.trainer.accelerator, key="trainer.accelerator").type == "cuda"
    check_batch_size(config, world)
    if config.trainer.sync_batchnorm and world > 1 and not on_gpu:
        raise ConfigError(
            "trainer.sync_batchnorm (=true) needs GPUs, which alone compute it; use model.freeze_batchnorm=true"
        )
    if config.data.on_device and not on_gpu:
        raise ConfigError(
            "data.on_device (=true) needs a GPU, in whose memory the images lie; use data.on_device=false"
        )
    # Batch norm's statistics are broadcast before validation; doing it at every step would hang uneven ones.
    minutes = config.trainer.timeout_minutes
    ddp = DDPStrategy(
        process_group_backend="nccl" if on_gpu else "gloo",
        broadcast_buffers=False,
        gradient_as_bucket_view=True,
        # The graph of a step is always the same; but the parts of one are more backward passes than DDP then counts.
        static_graph=config.trainer.accumulate == 1,
        # In case that nobody is left to watch, see fcn/training/watchdog.py.
        timeout=timedelta(days=10_000) if minutes is None else timedelta(minutes=max(4 * minutes, 1)),
    )
    progress = [ProgressBar(leave=False)] if sys.stdout.isatty() else []
    return pl.Trainer(
        accelerator="gpu" if on_gpu else "cpu",
        devices=local,
        num_nodes=world // local,
        strategy=ddp if world > 1 else "auto",
        precision=PRECISIONS[chosen_precision(config, on_gpu=on_gpu)],  # type: ignore[arg-type]
        benchmark=on_gpu and not config.deterministic,  # cuDNN tries its algorithms on the first crops
        deterministic=on_gpu and config.deterministic,
        sync_batchnorm=config.trainer.sync_batchnorm and world > 1,
        max_epochs=config.epochs,
        check_val_every_n_epoch=config.trainer.val_every,
        callbacks=[*callbacks, *progress],
        # Named, because in a SLURM job Lightning would believe SLURM's variables and requeue by itself.
        plugins=[AtomicCheckpointIO(), TorchElasticEnvironment() if world > 1 else LightningEnvironment()],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=bool(progress),
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # the data module's samplers know their share
        default_root_dir=os.curdir,
    )


def hyperparameters(config: Config, run_dir: Path) -> dict[str, Any]:
    """Flat values for the HPARAMS tab: the main keys and every key that was typed."""
    flat = configuration.flatten(configuration.to_container(config))
    overridden = values_by_key(runs.load_overrides(run_dir))
    values = {key: flat[key] for key in [*HPARAMS, *overridden] if key in flat}
    return {key: v if isinstance(v, (bool, int, float, str)) else str(v) for key, v in values.items()}

"""Training of a run, from its configuration to its files: the Python API that all commands call."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import traceback
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytorch_lightning as pl

from fcn import config as configuration
from fcn import errors, runs
from fcn.config import Config, ConfigError
from fcn.config.choices import ProfilerName
from fcn.config.component_origins import origin_of_file
from fcn.config.overrides import for_shell
from fcn.config.schema import AUTO
from fcn.data.module import VOCDataModule
from fcn.models.device import device_name, keep_freed_memory
from fcn.models.weights import copy_fitting
from fcn.runs import Status, provenance
from fcn.runs.checkpoints import CheckpointError, network_weights, prepare_last_checkpoint
from fcn.runs.resume import confirm_start
from fcn.training.checkpointing import AtomicCheckpointIO, Checkpointing, EpochCheckpoint
from fcn.training.console import logging_to
from fcn.training.divergence import TrainingDiverged
from fcn.training.profiling import OperationProfiler, build_profiler
from fcn.training.recording import Recording, headline
from fcn.training.run_header import RunHeader
from fcn.training.task import SegmentationTask
from fcn.training.trainer import build_trainer, stop_reason
from fcn.training.watchdog import Watchdog

log = logging.getLogger(__name__)

ANOMALY = re.compile(r"Function '(\w+)' returned nan values")
"""Message of torch with `trainer.detect_anomaly`."""


def train(config: Config, run_dir: Path | None = None) -> dict[str, float]:
    """Train and validate the configured model, and write the files of its run directory.

    A run that already has a checkpoint is resumed from it. The number of processes is read from the environment
    variables that torchrun sets; without them there is one.

    Args:
        config: configuration of the run; to resume the run in `run_dir`, its own one, see `fcn.runs.load_config`.
        run_dir: run directory, created if necessary; default: a new directory outputs/<name>/<time>, for one process.

    Returns:
        The final metrics by name, as in summary.json.

    Raises:
        ConfigError, DataError, WeightsError: before the first step, if the configuration cannot be executed, or if
            another process executes the run.
        TrainingDiverged: if the loss becomes NaN or infinite.
        RunFailure: if the system or another process fails, or because of a bug; saved files are kept.
        SystemExit: with 128 + signal, after one of `runs.STOP_SIGNALS`; the run can be resumed from a checkpoint.
    """
    config = configuration.validate_run(configuration.to_container(config))  # checks values, resolves references
    configuration.check_trains(config)
    if run_dir is None:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise ConfigError(
                "run_dir (=None) must be given to several processes, so that they share it; name a folder"
            )
        run_dir = runs.create_folder(Path("outputs", config.name, f"{datetime.now():%Y-%m-%d_%H-%M-%S}"))
    run_dir.mkdir(parents=True, exist_ok=True)
    if runs.is_rank_zero() and not (run_dir / runs.CONFIG).exists():
        runs.create(run_dir, config)
    with runs.locked(run_dir) if runs.is_rank_zero() else contextlib.nullcontext():
        if runs.read_status(run_dir) is Status.finished:
            reason = runs.read_summary(run_dir).get("stopped_early")
            print(f"{run_dir} is finished{f' ({reason})' if reason else ''}: nothing to do")
            return runs.final_metrics(run_dir)
        # The seed determines the initial weights; later random numbers have separate seeds.
        pl.seed_everything(config.seed, verbose=False)
        checkpointing = Checkpointing(
            run_dir,
            steps=config.trainer.checkpoint_steps,
            minutes=config.trainer.checkpoint_minutes,
            max_minutes=config.trainer.max_minutes,
        )
        with logging_to(run_dir / runs.LOG), checkpointing, _explained_failures(config, run_dir, checkpointing):
            if runs.is_rank_zero() and not runs.read_summary(run_dir):
                provenance.save_diff(run_dir)  # that of a resumed run is saved when its training starts
            return _fit(config, run_dir, checkpointing) if config.epochs != 0 else _save_untrained(config, run_dir)


@contextlib.contextmanager
def _explained_failures(config: Config, run_dir: Path, checkpointing: Checkpointing) -> Iterator[None]:
    """Log tracebacks; turn errors of the system and of libraries into one line that ends with how to resume."""
    try:
        yield
    except Exception as error:
        with contextlib.suppress(OSError), open(run_dir / runs.LOG, "a", encoding="utf-8") as file:
            traceback.print_exc(file=file)
        if isinstance(error, errors.UserError):
            raise
        if anomaly := ANOMALY.search(str(error)):
            raise TrainingDiverged(
                f"the backward pass of {anomaly[1]} gave NaN; the traceback in {run_dir / runs.LOG} shows where it was "
                "called (trainer.detect_anomaly)"
            ) from error
        values = configuration.flatten(configuration.to_container(config))
        line = errors.describe_failure(error, values)
        if line is None:
            raise errors.RunFailure(
                errors.describe_bug(error, log=run_dir / runs.LOG, origin_of=origin_of_file)
            ) from error
        step = checkpointing.saved_step
        start = f"continues from step {step}" if step else "starts from the beginning, since nothing was saved"
        raise errors.RunFailure(f"{line}; then {for_shell('resume', run_dir)} {start}") from error


def _save_untrained(config: Config, run_dir: Path) -> dict[str, float]:
    """Save the initial network as the checkpoint of a run of 0 epochs, which can be evaluated and exported."""
    task = build_task(config)
    if runs.is_rank_zero():
        components = {"components": origins} if (origins := configuration.component_origins(config)) else {}
        state = {"state_dict": task.state_dict(), "normalization": task.network.normalization}
        checkpoint = {"config": configuration.to_container(config), **state, **components}
        AtomicCheckpointIO().save_checkpoint(checkpoint, run_dir / runs.LAST)
        confirm_start(run_dir)
        provenance.save_diff(run_dir)
        overrides = runs.load_overrides(run_dir)
        origin = {**provenance.provenance(), **components}
        summary = {"status": Status.finished, "metrics": {}, "overrides": overrides, **origin}
        runs.write_summary(run_dir, summary)
        log.info("model    %s", config.model.describe(config))
        log.info("not trained (epochs=0); the initial network is in %s", run_dir / runs.LAST)
    return {}


def _fit(config: Config, run_dir: Path, checkpointing: Checkpointing) -> dict[str, float]:
    recording = Recording(run_dir, config)
    watchdog = Watchdog(config.trainer.timeout_minutes, run_dir)
    chosen = [option.build(config, run_dir) for option in config.callbacks.values()]
    if config.trainer.profiler is ProfilerName.pytorch:
        chosen.append(OperationProfiler(run_dir))
    first, last = [RunHeader(config, run_dir), recording], [EpochCheckpoint(recording, checkpointing), watchdog]
    # Checkpoints are saved after the other callbacks, so that they contain their state after the step.
    callbacks, profiler = [*first, *chosen, checkpointing, *last], build_profiler(config.trainer.profiler, run_dir)
    trainer = build_trainer(config, callbacks=callbacks, loggers=recording.loggers, profiler=profiler)
    if config.trainer.accumulate != AUTO:  # see `StepParts.find`
        keep_freed_memory(trainer.strategy.root_device)
    status = Status.failed
    try:
        checkpoint = prepare_last_checkpoint(run_dir)
        task = SegmentationTask(config, pretrained=False) if checkpoint else build_task(config)
        trainer.ckpt_path = checkpoint  # not an argument of `fit`, so that `choose_fastest_settings` sees it
        trainer.fit(task, datamodule=VOCDataModule(config), weights_only=True)
        status = Status.finished
        recording.stop_reason = stop_reason(trainer)
    except (SystemExit, KeyboardInterrupt):
        status = Status.interrupted
        log.info("interrupted at step %d; continue with %s", trainer.global_step, for_shell("resume", run_dir))
        raise
    finally:
        if trainer.is_global_zero:
            recording.finish(trainer, status)
    if recording.stop_reason:
        log.info("stopped  early, after step %d: %s", trainer.global_step, recording.stop_reason)
    devices = f"{trainer.world_size} x {device_name(trainer.strategy.root_device)}"
    log.info("%s", headline(recording.metrics))
    log.info("%s", recording.speed.describe(devices))
    return recording.metrics


def build_task(config: Config) -> SegmentationTask:
    """Return the task with its initial weights; log which of them come from the run `model.init_from`.

    Raises:
        ConfigError: if `model.init_from` is neither a run nor a checkpoint, or none of its tensors fits.
        WeightsError: if the weights of the backbone are not available or do not fit.
    """
    try:
        return _task_with_initial_weights(config)
    except errors.UserError as error:
        if config.rerun is None:
            raise
        need = f"rerun (={config.rerun}) starts from the initial weights of the run again, unlike resume"
        raise type(error)(f"{need}: {error}") from error


def _task_with_initial_weights(config: Config) -> SegmentationTask:
    task, run = SegmentationTask(config), config.model.init_from
    if run is None:
        return task
    try:
        copied, initialised, unused = copy_fitting(task.network.model, network_weights(run))
    except CheckpointError as error:
        raise ConfigError(f"model.init_from (={run}) must be a run or a checkpoint: {error}") from error
    if not copied:
        raise ConfigError(f"model.init_from (={run}) must fit the network; use a run with the same backbone")
    log.info("weights  %d of %d tensors copied from %s", len(copied), len(copied) + len(initialised), run)
    for label, names in (("initialised", initialised), ("not used", unused)):
        if names:
            log.info("         %s: %s", label, ", ".join(names if len(names) <= 12 else [*names[:12], "..."]))
    return task

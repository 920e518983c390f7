"""Recording of a run: scalars per step and per epoch, pictures, checkpoints and summary.json."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from torch import Tensor
from torch.optim import Optimizer

from fcn import errors, runs
from fcn.config import Config, ConfigError, component_origins
from fcn.models.device import device_name
from fcn.runs import Status, provenance
from fcn.runs.resume import confirm_start
from fcn.runs.summary import Execution, Summary
from fcn.training.compute import chosen_settings
from fcn.training.epoch_pictures import SAMPLES_TAG, draw_epoch_pictures, pictures_are_due
from fcn.training.loggers.guarded import build_loggers
from fcn.training.monitors import gradient_norm, upsampling_drift
from fcn.training.task import SegmentationTask
from fcn.training.throughput import Speed
from fcn.visualization.learning_curves import draw_learning_curves
from fcn.visualization.png_files import save_png

log = logging.getLogger(__name__)


class Recording(pl.Callback):
    """Writes the files of a run at the end of every epoch, and points of the step curves in between.

    With `steps`, an epoch of Lightning is a round, see `fcn.data.sampling.Rounds`. Scores are computed by all ranks
    together; rank 0 writes.

    Args:
        run_dir: run directory.
        config: configuration of the run.

    Attributes:
        metrics: latest value of every score, by its name in summary.json.
        best: entry `best` of summary.json.
        is_best: whether the last epoch is the best one so far.
        loggers: loggers of the run, which are also those of the trainer.
        stop_reason: why the run ended before its last step, for example by early stopping; empty if it did not.
        speed: times of the training steps.
    """

    def __init__(self, run_dir: Path, config: Config) -> None:
        self.run_dir = run_dir
        self.config = config
        self.metrics: dict[str, float] = {}
        self.best: dict[str, Any] = {}
        self.is_best, self.stop_reason = False, ""
        # Metrics and best of the last checkpoint: a resumed run computes later ones again.
        self._saved: tuple[dict[str, float], dict[str, Any]] = ({}, {})
        self._previous_seconds, self._started = 0.0, time.monotonic()
        self.speed = Speed()
        self._point = (0.0, 0.0)  # images and training seconds at the last point of the step curves
        self._gradient_norm: Tensor | None = None
        self._rows: list[Mapping[str, Any]] = []
        self.loggers = build_loggers(config, run_dir)
        self._is_recording = False  # whether this is rank 0 of a run whose training has started
        self._execution: Execution = {}
        self._history: list[Execution] = []
        if runs.is_rank_zero():
            started = datetime.now(timezone.utc).isoformat(timespec="seconds")
            self._execution = {"started": started, **provenance.provenance()}
            if components := component_origins(config):
                self._execution["components"] = components

    @property
    def state_key(self) -> str:
        return "RunRecorder"  # key of this callback in checkpoints, also in those of earlier versions

    @property
    def seconds(self) -> float:
        """Wall-clock time of the run, over all its executions."""
        return self._previous_seconds + time.monotonic() - self._started

    def state_dict(self) -> dict[str, Any]:
        return {
            "best": self.best,
            "metrics": self.metrics,
            "seconds": self.seconds,
            **self.speed.state_dict(),
            "history": [*self._history, self._execution],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.metrics = state_dict["best"], state_dict["metrics"]
        self._saved = dict(self.metrics), self.best
        self._previous_seconds = state_dict["seconds"]
        self.speed.load_state_dict(state_dict)
        self._point = self.speed.images, self.speed.seconds
        self._history = state_dict["history"]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            self.speed.prepare(_task(pl_module).network, trainer)  # before the network is compiled

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            data, device = trainer.datamodule, trainer.strategy.root_device  # type: ignore[attr-defined]
            self._execution["data"], self._execution["warnings"] = data.fingerprint, data.warnings
            self._execution["device"] = device_name(device)
            self._execution.update(chosen_settings(_task(pl_module).config, device))
            self._execution["world_size"] = trainer.world_size
            step = trainer.global_step
            # Rows written after the checkpoint from which the run is resumed are computed again.
            self._rows = [row for row in runs.read_metrics(self.run_dir) if int(row["step"]) <= step]
            for logger in self.loggers:
                logger.start(trainer)
            self._is_recording = True
        self.speed.start()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.speed.start()

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        self.speed.batch_arrived()

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        # Computed only when it is recorded; the value of an epoch is that of its last step.
        if self._is_recording and (trainer.is_last_batch or self._has_point(trainer.global_step + 1)):
            self._gradient_norm = gradient_norm(pl_module)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        self.speed.step_done(self.config.batch_size)
        if self._is_recording and self._has_point(trainer.global_step):
            self._log(self._step_scalars(trainer, _task(pl_module)), trainer.global_step)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        task = _task(pl_module)
        scores = task.epoch_scores()
        self.metrics.update(scores)
        self.is_best = scores.get("val/mean_iou", -1.0) > self.best.get("val/mean_iou", -1.0)
        if self.is_best:
            mean_iou = scores["val/mean_iou"]
            place = {"epoch": _epoch(trainer), "step": trainer.global_step}
            self.best = {**place, "val/mean_iou": mean_iou, "checkpoint": runs.BEST}
        # Speed and memory differ between ranks: all of them log the values of rank 0.
        values = trainer.strategy.broadcast(self._epoch_scalars(trainer, task, scores))
        task.log_scalars({name: value for name, value in values.items() if not name.startswith(("val/", "d2l/test_"))})
        # Before the checkpoint: a run that is killed in between writes the scalars twice instead of never.
        if trainer.is_global_zero:
            self._record_scalars(trainer, values)
            if "val/mean_iou" in scores:
                self._record_due_pictures(trainer, task)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        # A resumed run does not log again what precedes its checkpoint.
        for logger in self.loggers:
            logger.flush()

    def conclude_epoch(self, trainer: pl.Trainer) -> None:
        """Write the summary after the checkpoint of an epoch was saved."""
        self._saved = dict(self.metrics), self.best
        if trainer.is_global_zero:
            self.write_summary(trainer, Status.interrupted)  # status if the process is killed after this line

    def finish(self, trainer: pl.Trainer, status: Status) -> None:
        """Write summary, curves, and the end of the loggers; rank 0 only.

        Unless the run has finished, errors of the system are logged instead of raised: they must not hide the failure.
        """
        if status is not Status.finished:
            self.metrics, self.best = self._saved
        # The files of a run whose resumption was refused do not change, except for the status.
        has_results = self._is_recording or status is Status.finished or not runs.read_summary(self.run_dir)
        curves = [self._record_curves] if has_results else []
        for write in (self._record_end, *curves, self._close_loggers):
            try:
                write(trainer, status)
            except OSError as error:
                if status is Status.finished:
                    raise
                log.warning("not written: %s", errors.describe_storage_error(error))

    def _record_end(self, trainer: pl.Trainer, status: Status) -> None:
        if self._is_recording or not (summary := runs.read_summary(self.run_dir)):
            self.write_summary(trainer, status)
        elif status is Status.finished:  # the run was killed after its last checkpoint
            confirm_start(self.run_dir)
            runs.write_summary(self.run_dir, {**summary, **self._results(status)})
        else:  # the run failed before it was resumed: the other fields do not change
            runs.set_status(self.run_dir, status)

    def _record_curves(self, trainer: pl.Trainer, status: Status) -> None:
        try:
            if rows := runs.read_metrics(self.run_dir):
                save_png(draw_learning_curves(rows), self.run_dir / runs.CURVES)
        except Exception as error:  # an unreadable table must not make a finished run fail
            log.warning("%s could not be drawn: %s", runs.CURVES, errors.describe_failure(error, {}) or error)

    def _close_loggers(self, trainer: pl.Trainer, status: Status) -> None:
        for logger in self.loggers:
            logger.close(status)

    def write_summary(self, trainer: pl.Trainer, status: Status) -> None:
        """Write summary.json with the current values."""
        summary: Summary = {
            **self._results(status),
            **self.speed.summary(),
            "seconds": round(self.seconds, 2),
            "device": device_name(trainer.strategy.root_device),
            "world_size": trainer.world_size,
            **({"accumulate": _task(trainer.lightning_module).parts.number} if self._is_recording else {}),
            "overrides": runs.load_overrides(self.run_dir),
            **self._execution,
            "history": self._history,
        }
        runs.write_summary(self.run_dir, summary)

    def _results(self, status: Status) -> Summary:
        results: Summary = {"status": status, "metrics": self.metrics, "best": self.best}
        return {**results, "stopped_early": self.stop_reason} if self.stop_reason else results

    def _has_point(self, step: int) -> bool:
        """Whether the step curves have a point after optimiser step `step`, counted from 1."""
        return step % self.config.trainer.log_every == 0

    def _progress(self, trainer: pl.Trainer) -> tuple[str, int, int]:
        """Return the unit in which the length of the run is given, the number of units done, and their total."""
        if self.config.steps is not None:
            return "step", trainer.global_step, self.config.steps
        return "epoch", trainer.current_epoch + 1, trainer.max_epochs or 0

    def _step_scalars(self, trainer: pl.Trainer, task: SegmentationTask) -> dict[str, float]:
        images, seconds = self._point
        self._point = self.speed.images, self.speed.seconds
        speed = (self.speed.images - images) / max(self.speed.seconds - seconds, 1e-9)
        values = {"train/loss_step": task.last_loss, "images_per_second_step": speed}
        return values if trainer.is_last_batch else values | self._optimizer_scalars(task)

    def _optimizer_scalars(self, task: SegmentationTask) -> dict[str, float]:
        """Learning rate and gradient norm of the last step: on the step curves, and at the end of an epoch."""
        if self._gradient_norm is None:  # Lightning measures in the closure
            raise ConfigError(f"optim (={self.config.optim.name}) must call the closure given to its method step")
        return {"lr": task.learning_rate(), "gradient_norm": self._gradient_norm.item()}

    def _epoch_scalars(
        self, trainer: pl.Trainer, task: SegmentationTask, scores: Mapping[str, float]
    ) -> dict[str, float]:
        """Return all scalars of an epoch on rank 0, and the scores on other ranks."""
        if not trainer.is_global_zero:
            return dict(scores)
        return {
            **scores,
            **({"best/mean_iou": self.best["val/mean_iou"]} if self.best else {}),
            **self._optimizer_scalars(task),
            **upsampling_drift(task.network.evaluated_model),
            **self.speed.scalars(),
        }

    def _record_scalars(self, trainer: pl.Trainer, values: Mapping[str, float]) -> None:
        self._rows.append({"epoch": _epoch(trainer), "step": trainer.global_step, **values})
        runs.write_metrics(self.run_dir, self._rows)
        self._log(values, trainer.global_step)
        unit, number, total = self._progress(trainer)
        log.info("%s %d/%d  %s", unit, number, total, headline(values))

    def _record_due_pictures(self, trainer: pl.Trainer, task: SegmentationTask) -> None:
        unit, number, total = self._progress(trainer)
        data, settings = trainer.datamodule, self.config.trainer  # type: ignore[attr-defined]
        interval = settings.val_every if unit == "epoch" else settings.val_every_steps or data.steps_per_epoch
        if not pictures_are_due(number, total, interval=interval):
            return
        pictures = draw_epoch_pictures(task, data)
        if SAMPLES_TAG in pictures:
            path = self.run_dir / runs.SAMPLES / f"{unit}_{number:0{3 if unit == 'epoch' else 6}d}.png"
            path.parent.mkdir(exist_ok=True)
            save_png(pictures[SAMPLES_TAG], path)
        for logger in self.loggers:
            logger.record_pictures(pictures, trainer.global_step)

    def _log(self, values: Mapping[str, float], step: int) -> None:
        for logger in self.loggers:
            logger.record(values, step)


def headline(scores: Mapping[str, float]) -> str:
    """Return the main scores in one line: `loss 0.443, train acc 0.863, val acc 0.848, val mIoU 0.412`."""
    names = {
        "loss": "train/loss",
        "train acc": "train/pixel_accuracy",
        "val acc": "val/pixel_accuracy",
        "val mIoU": "val/mean_iou",
        "d2l test acc": "d2l/test_acc",
    }
    return ", ".join(f"{label} {scores[name]:.3f}" for label, name in names.items() if name in scores)


def _epoch(trainer: pl.Trainer) -> int:
    """Return the epoch, from 0, to which the last step belongs; a round of `steps` may end within an epoch."""
    steps_per_epoch: int = trainer.datamodule.steps_per_epoch  # type: ignore[attr-defined]
    return (trainer.global_step - 1) // steps_per_epoch


def _task(module: pl.LightningModule) -> SegmentationTask:
    assert isinstance(module, SegmentationTask)
    return module

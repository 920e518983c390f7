"""What a run leaves behind: scalars, pictures, checkpoints and summary, written at the end of every epoch."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from PIL import Image
from torch import Tensor, nn
from torch.optim import Optimizer

from fcn import errors, runs
from fcn.data.module import VOCDataModule
from fcn.inference.predictor import predict_logits
from fcn.models.device import device_name
from fcn.models.upsampling import bilinear_kernel
from fcn.runs import Status, provenance
from fcn.runs.summary import Execution, Summary
from fcn.training.checkpointing import SavePoints
from fcn.training.diagnostics import gradient_norm, peak_memory_mib, upsampling_drift, upsampling_layers
from fcn.training.task import SegmentationTask
from fcn.training.tensorboard import EventFiles
from fcn.visualization.confusion_matrix import draw_confusion_matrix
from fcn.visualization.learning_curves import draw_learning_curves
from fcn.visualization.panels import Sample, draw_panels
from fcn.visualization.png_files import save_png
from fcn.visualization.upsampling_kernels import draw_kernels

log = logging.getLogger(__name__)


class RunRecorder(pl.Callback):
    """Fills the run directory at the end of every epoch: scalars, pictures, checkpoints, summary.json.

    All processes compute together; process 0 writes.

    Args:
        run_dir: the run directory.
        savepoints: what saves, and is asked after every epoch whether the run has to end.
        hyperparameters: what TensorBoard's HPARAMS tab shows of the run.

    Attributes:
        metrics: the newest value of every scalar, by its name in summary.json.
    """

    def __init__(self, run_dir: Path, savepoints: SavePoints, hyperparameters: Mapping[str, Any]) -> None:
        self.run_dir = run_dir
        self.savepoints = savepoints
        self.hyperparameters = hyperparameters
        self.metrics: dict[str, float] = {}
        self.best: dict[str, Any] = {}
        # As of the last checkpoint: what comes after it is lost when the run fails, and comes again.
        self._saved: tuple[dict[str, float], dict[str, Any]] = ({}, {})
        self._elapsed_before = 0.0
        self._images = self._train_seconds = 0.0
        self._started = self._since = time.monotonic()
        self._point = (0.0, 0.0)  # images and seconds at the last point of the step curves
        self._gradient_norm: Tensor | None = None
        self._rows: list[Mapping[str, Any]] = []
        self._events: EventFiles | None = None
        # What this execution of the run computes with, and what those before it did; kept by process 0.
        self._execution: Execution = {}
        self._earlier: list[dict[str, Any]] = []
        if int(os.environ.get("RANK", "0")) == 0:
            started = datetime.now(timezone.utc).isoformat(timespec="seconds")
            self._execution = {"started": started, **provenance.provenance()}

    @property
    def seconds(self) -> float:
        """Wall time of the run, over all its stretches."""
        return self._elapsed_before + time.monotonic() - self._started

    @property
    def images_per_second(self) -> float:
        """Training images of all processes per second, waits for data included, validation left out."""
        return self._images / self._train_seconds if self._train_seconds else 0.0

    def state_dict(self) -> dict[str, Any]:
        return {
            "best": self.best,
            "metrics": self.metrics,
            "seconds": self.seconds,
            "images": self._images,
            "train_seconds": self._train_seconds,
            "history": [*self._earlier, self._execution],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best, self.metrics = state_dict["best"], state_dict["metrics"]
        self._saved = dict(self.metrics), self.best
        self._elapsed_before = state_dict["seconds"]
        self._images, self._train_seconds = self._point = state_dict["images"], state_dict["train_seconds"]
        self._earlier = state_dict.get("history", [])  # a run of an older version has none

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            self._execution["data"] = trainer.datamodule.fingerprint  # type: ignore[attr-defined]
            self._execution["device"] = device_name(trainer.strategy.root_device)
            self._execution["world_size"] = trainer.world_size
            step = trainer.global_step
            # What was written after the checkpoint from which a run goes on is dropped: it comes again.
            self._rows = [row for row in runs.read_metrics(self.run_dir) if int(row["step"]) <= step]
            self._events = EventFiles(self.run_dir, step=step, hyperparameters=self.hyperparameters)
        self._since = time.monotonic()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._since = time.monotonic()

    def on_train_batch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        if trainer.current_epoch + 1 == trainer.max_epochs:
            trainer.check_val_every_n_epoch = 1  # the last epoch is validated whatever trainer.val_every says

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Optimizer
    ) -> None:
        # Only where it will be read: the last step of an epoch gives the value of the epoch.
        if self._events and (trainer.is_last_batch or _has_point(trainer.global_step + 1, _task(pl_module))):
            self._gradient_norm = gradient_norm(pl_module)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        task = _task(pl_module)
        self._images += task.config.batch_size
        now = time.monotonic()
        self._train_seconds += now - self._since
        self._since = now
        if self._events and _has_point(trainer.global_step, task):
            self._events.add_scalars(self._step_scalars(trainer, task), trainer.global_step)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        task = _task(pl_module)
        scores = task.epoch_scores()
        self.metrics.update(scores)
        improved = scores.get("val/mean_iou", -1.0) > self.best.get("val/mean_iou", -1.0)
        if improved:
            self.best = {
                "epoch": trainer.current_epoch,
                "val/mean_iou": scores["val/mean_iou"],
                "checkpoint": runs.BEST,
            }
        # Scalars come before the checkpoint: a run that is killed in between writes them again, never skips them.
        if trainer.is_global_zero:
            self._record_scalars(trainer, task, scores)
            if "val/mean_iou" in scores:
                self._record_pictures(trainer, task)
            assert self._events
            self._events.flush()
        self.savepoints.save(trainer, best=improved)
        self._saved = dict(self.metrics), self.best
        if trainer.is_global_zero:
            self.write_summary(trainer, Status.interrupted)  # what is true if the run ends here
        self.savepoints.stop_if_asked(trainer)

    def finish(self, trainer: pl.Trainer, status: Status) -> None:
        """Write the last summary, the curves and how the run ended. Called by process 0, once.

        After a failure, what goes wrong here is told and hides nothing.
        """
        if status is not Status.finished:
            self.metrics, self.best = self._saved
        for write in (self._record_end, self._record_curves, self._close_events):
            try:
                write(trainer, status)
            except OSError as error:
                if status is Status.finished:
                    raise
                log.warning("not written: %s", errors.describe_storage_error(error))

    def _record_end(self, trainer: pl.Trainer, status: Status) -> None:
        if self._events or not runs.read_summary(self.run_dir):
            self.write_summary(trainer, status)
        else:  # a run that was to go on, and did not come so far: what it had stays
            runs.set_status(self.run_dir, status)

    def _close_events(self, trainer: pl.Trainer, status: Status) -> None:
        if self._events:
            self._events.close(status)

    def write_summary(self, trainer: pl.Trainer, status: Status) -> None:
        """Write summary.json as things stand."""
        summary: Summary = {
            "status": status,
            "metrics": self.metrics,
            "best": self.best,
            "images_per_second": round(self.images_per_second, 2),
            "seconds": round(self.seconds, 2),
            "device": device_name(trainer.strategy.root_device),
            "world_size": trainer.world_size,
            "overrides": runs.load_overrides(self.run_dir),
            **self._execution,
            # Executions before this one, oldest first: when each began, and what was different then.
            "history": [
                {key: then for key, then in earlier.items() if key == "started" or then != self._execution.get(key)}
                for earlier in self._earlier
            ],
        }
        runs.write_summary(self.run_dir, summary)

    def _step_scalars(self, trainer: pl.Trainer, task: SegmentationTask) -> dict[str, float]:
        """Point of the step curves. What the row of the epoch brings at its last step is left to it."""
        images, seconds = self._point
        self._point = self._images, self._train_seconds
        speed = (self._images - images) / max(self._train_seconds - seconds, 1e-9)
        values = {"train/loss_step": task.last_loss, "images_per_second_step": speed}
        return values if trainer.is_last_batch else values | self._of_last_step(trainer)

    def _of_last_step(self, trainer: pl.Trainer) -> dict[str, float]:
        assert self._gradient_norm is not None
        learning_rate = float(trainer.optimizers[0].param_groups[0]["lr"])
        return {"lr": learning_rate, "gradient_norm": self._gradient_norm.item()}

    def _record_scalars(self, trainer: pl.Trainer, task: SegmentationTask, scores: Mapping[str, float]) -> None:
        values = {
            **scores,
            **({"best/mean_iou": self.best["val/mean_iou"]} if self.best else {}),
            **self._of_last_step(trainer),
            **upsampling_drift(task.network.model),
            "images_per_second": self.images_per_second,
            "memory_mib": peak_memory_mib(trainer.strategy.root_device),
        }
        self._rows.append({"epoch": trainer.current_epoch, "step": trainer.global_step, **values})
        runs.write_metrics(self.run_dir, self._rows)
        assert self._events
        self._events.add_scalars(values, trainer.global_step)
        log.info("epoch %d/%d  %s", trainer.current_epoch + 1, trainer.max_epochs, one_line(scores))

    def _record_pictures(self, trainer: pl.Trainer, task: SegmentationTask) -> None:
        classes = task.config.data.classes
        pictures = {"val/confusion_matrix": draw_confusion_matrix(task.confusion.numpy(), classes)}
        if samples := self._samples(trainer, task):
            pictures["val/samples"] = draw_panels(samples, classes)
            path = self.run_dir / runs.SAMPLES / f"epoch_{trainer.current_epoch + 1:03d}.png"
            path.parent.mkdir(exist_ok=True)
            save_png(pictures["val/samples"], path)
        if upsampling_layers(task.network.model):
            pictures["upsampling/kernels"] = _kernels(task.network.model, classes)
        assert self._events
        self._events.add_pictures(pictures, trainer.global_step)

    def _record_curves(self, trainer: pl.Trainer, status: Status) -> None:
        """Draw metrics.csv; a run without its picture is a run."""
        try:
            if rows := runs.read_metrics(self.run_dir):
                save_png(draw_learning_curves(rows), self.run_dir / runs.CURVES)
        except Exception as error:
            said = errors.describe_failure(error, {}) or error
            log.warning("%s could not be drawn: %s", runs.CURVES, said)

    def _samples(self, trainer: pl.Trainer, task: SegmentationTask) -> list[Sample]:
        """The same images at every epoch, evenly spread over the validation set."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(data, VOCDataModule)
        count = min(task.config.trainer.sample_images, len(data.val_images))
        samples = []
        for number in range(count):
            sample = data.val_images[number * len(data.val_images) // count]
            prediction = predict_logits(task.network, sample["image"]).argmax(dim=0).to(torch.uint8).cpu().numpy()
            samples.append((sample["image"].permute(1, 2, 0).numpy(), sample["mask"].numpy(), prediction))
        return samples


def one_line(scores: Mapping[str, float]) -> str:
    """Headline numbers: `loss 0.443, train acc 0.863, val acc 0.848, val mIoU 0.412`."""
    shown = {
        "loss": "train/loss",
        "train acc": "train/pixel_accuracy",
        "val acc": "val/pixel_accuracy",
        "val mIoU": "val/mean_iou",
        "chapter's test acc": "d2l/test_acc",
    }
    return ", ".join(f"{label} {scores[name]:.3f}" for label, name in shown.items() if name in scores)


def _has_point(step: int, task: SegmentationTask) -> bool:
    """Whether the step curves have a point after optimiser step `step`, counted from 1."""
    return step % task.config.trainer.log_every == 0


def _kernels(model: nn.Module, classes: Sequence[str]) -> Image.Image:
    weights = {name: layer.weight.detach().cpu() for name, layer in upsampling_layers(model).items()}
    layers = {name: (w.numpy(), bilinear_kernel(1, w.shape[-1])[0, 0].numpy()) for name, w in weights.items()}
    return draw_kernels(layers, classes)


def _task(module: pl.LightningModule) -> SegmentationTask:
    assert isinstance(module, SegmentationTask)
    return module

"""Test of a pipeline: a few images must be learned until their own masks are predicted."""

from __future__ import annotations

import logging
from typing import Any

import pytorch_lightning as pl

from fcn.evaluation.scores import class_counts, mean_iou
from fcn.training.task import SegmentationTask

log = logging.getLogger(__name__)


class Overfit(pl.Callback):
    """Ends the run when the training crops are predicted well enough, and logs whether it worked.

    The score is the mean IoU of the training crops since the last validation or epoch, over all processes.

    Args:
        target: mean IoU from which the images count as learned.

    Attributes:
        score: latest mean IoU of the training crops.
        stopping_reason_message: why the run ends early; None before.
    """

    def __init__(self, target: float) -> None:
        self.target = target
        self.score = float("nan")
        self.stopping_reason_message: str | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"score": self.score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.score = state_dict["score"]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._stop_if_learned(trainer)  # a run that was killed before it ended

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        if not trainer.is_last_batch:
            return
        assert isinstance(pl_module, SegmentationTask)
        counts = pl_module.metrics["train/"]
        with counts.sync_context():
            self.score = float(mean_iou(class_counts(counts.confusion.cpu().numpy()).iou()))
        self._stop_if_learned(trainer)

    def _stop_if_learned(self, trainer: pl.Trainer) -> None:
        if self.score >= self.target:
            self.stopping_reason_message = f"train mIoU {self.score:.3f} reached {self.target:g}"
            trainer.should_stop = True
            trainer.check_val_every_n_epoch = 1  # the last epoch is validated

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        images, step = len(trainer.datamodule.train_images), trainer.global_step  # type: ignore[attr-defined]
        result = f"train mIoU {self.score:.3f} on {images} images after step {step}"
        if self.score >= self.target:
            log.info("overfit  learned: %s; data, loss and gradients fit together", result)
        else:
            log.info(
                "overfit  not learned: %s is below %g; look at masks and class order (data.classes), try lr=... ten "
                "times higher and lower, more epochs=..., or model=fcn8s for small objects",
                result,
                self.target,
            )

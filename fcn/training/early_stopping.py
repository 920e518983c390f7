"""Early stopping: Lightning's callback, checked after validations, with an exact resume."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import early_stopping

from fcn.config import ConfigError, nearest
from fcn.training.callback_options import EarlyStoppingConfig

Reason = early_stopping.EarlyStoppingReason


class EarlyStopping(early_stopping.EarlyStopping):
    """Lightning's callback, which is checked at the end of every epoch with a validation.

    Lightning would check a training score at the end of other epochs too, so that the last epoch of a run might not be
    validated. The scores of training and validation of an epoch are both available at its end.

    A checkpoint contains the number of validations without improvement. A run that is resumed after it was to be
    stopped, because it was killed in between, does not continue to train.
    """

    def __init__(self, config: EarlyStoppingConfig) -> None:
        super().__init__(
            config.monitor,
            mode="min" if config.is_minimized else "max",
            patience=config.patience,
            min_delta=config.min_delta,
            stopping_threshold=config.stopping_threshold,
            check_finite=False,  # the IoU of a missing class is NaN: no improvement
            check_on_train_epoch_end=True,
        )
        self._is_validated = False

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict({**state_dict, "patience": self.patience})  # a resumed run may have another patience

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop before the first step, if the checkpoint of a run that was to be stopped is resumed."""
        is_exhausted = self.wait_count >= self.patience
        threshold = self.stopping_threshold
        is_reached = threshold is not None and bool(self.monitor_op(self.best_score, threshold))
        if is_exhausted or is_reached:
            trainer.should_stop = True
        else:
            self.stopping_reason, self.stopping_reason_message = Reason.NOT_STOPPED, None

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._is_validated = True

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not self._is_validated:
            return
        self._is_validated = False
        known = trainer.callback_metrics
        if self.monitor not in known:
            raise ConfigError(
                f"callbacks.early_stopping.monitor (={self.monitor}) must be a scalar of the run"
                f"{nearest(self.monitor, known)}; scalars: {', '.join(known)}"
            )
        self._run_early_stopping_check(trainer)
        if self.stopping_reason is Reason.STOPPING_THRESHOLD:
            self.best_score = known[self.monitor].squeeze()
        if self.stopping_reason is not Reason.NOT_STOPPED:
            self.stopping_reason_message = self._describe_reason()

    def _describe_reason(self) -> str:
        if self.stopping_reason is Reason.STOPPING_THRESHOLD:
            return f"{self.monitor} reached {self.best_score:.4g}, better than {self.stopping_threshold:g}"
        return f"{self.monitor} has not improved on {self.best_score:.4g} in {self.wait_count} validations"

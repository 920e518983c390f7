"""Summary of the layers of a network."""

from __future__ import annotations

import logging

import pytorch_lightning as pl
from pytorch_lightning.utilities.model_summary.model_summary import summarize

from fcn.training.task import SegmentationTask

log = logging.getLogger(__name__)


class ModelSummary(pl.Callback):
    """Logs the layers of the network with their numbers of parameters when training starts.

    Lightning's callback logs to its own logger, which this project does not show.
    """

    def __init__(self, max_depth: int) -> None:
        self.max_depth = max_depth

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, SegmentationTask)
        for line in str(summarize(pl_module, max_depth=self.max_depth)).splitlines():
            log.info(line)

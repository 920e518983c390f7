"""Console and log file of a run, progress bar, and warnings that are expected."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar

from fcn import runs
from fcn.training.task import SegmentationTask


class ProgressBar(RichProgressBar):
    """Lightning's progress bar, with epochs counted from 1 as in the log, and the latest known loss.

    With `steps`, it shows the step at which the current round ends.
    """

    @property
    def total_train_batches(self) -> int | float:
        rounds = self.trainer.datamodule.rounds  # type: ignore[attr-defined]
        return rounds.end - rounds.start  # type: ignore[no-any-return]  # the last round may be shorter

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        assert isinstance(pl_module, SegmentationTask)
        return {} if np.isnan(pl_module.last_loss) else {"loss": f"{pl_module.last_loss:.3f}"}

    def _get_train_description(self, current_epoch: int) -> str:
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        description = f"Epoch {current_epoch + 1}/{self.trainer.max_epochs}"
        if data.config.steps is not None:
            description = f"Step {data.rounds.end}/{data.config.steps}"
        return description.ljust(len(self.validation_description))  # equal widths avoid flicker


class _ConsoleHandler(logging.Handler):
    """Prints to the current sys.stdout, which the progress bar replaces to keep its line intact."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), flush=True)


class _LogFileHandler(logging.FileHandler):
    """Reports once that the log cannot be written, for example because the disk is full; the run continues."""

    reported = False

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self.reported:
            self.reported = True
            print(f"{self.baseFilename} cannot be written: {error.strerror}", flush=True)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # buffered lines still cannot be written
            super().close()


@contextlib.contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Log messages of this package to the console and to `path`, on rank 0 only; hide those of Lightning."""
    logger = logging.getLogger("fcn")
    handlers: list[logging.Handler] = []
    if runs.is_rank_zero():
        file = _LogFileHandler(path, encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        handlers = [_ConsoleHandler(), file]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    for handler in handlers:
        logger.addHandler(handler)
    for name in ("pytorch_lightning", "lightning.fabric", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    previous_hook, threading.excepthook = threading.excepthook, _ignore_failed_writers
    try:
        with warnings.catch_warnings():
            _ignore_known_warnings()
            yield
    finally:
        threading.excepthook = previous_hook
        logger.propagate = True
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()


def _ignore_failed_writers(failure: threading.ExceptHookArgs) -> None:
    """Print no traceback of TensorBoard's writer thread; the next call of the writer raises its error."""
    if type(failure.thread).__name__ != "_AsyncWriterThread":
        threading.__excepthook__(failure)


def _ignore_known_warnings() -> None:
    # data.num_workers is set deliberately.
    warnings.filterwarnings("ignore", message=".*does not have many workers")
    # Our samplers restore the position within an epoch; the loader needs no state_dict.
    warnings.filterwarnings("ignore", message=".*your dataloader is not resumable")
    # Renamed in torch 2.15; older versions do not know the new name.
    warnings.filterwarnings("ignore", message=".*`broadcast_buffers` is deprecated")
    # Lightning 2.6 uses a function that torch 2.15 deprecates.
    warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated")
    # model.freeze_batchnorm keeps batch norm in eval mode.
    warnings.filterwarnings("ignore", message=".*in eval mode at the start of training")
    # Callbacks may be removed on resume with `allow`; the chosen ones are compared with those of the checkpoint.
    warnings.filterwarnings("ignore", message=".*callbacks used to create the checkpoint need to be provided")
    # A rank may have no validation images, since the set is not padded.
    warnings.filterwarnings("ignore", message=".*has 0 length")
    # Values that callbacks log in steps; a short run may have none.
    warnings.filterwarnings("ignore", message="The number of training batches .* is smaller than the logging interval")

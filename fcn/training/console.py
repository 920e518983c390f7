"""What a run prints: its log, on the console and in a file, and its progress bar."""

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
    """Lightning's bar, with epochs counted from 1, as in the log, and the loss as it was last looked at."""

    def get_metrics(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        assert isinstance(pl_module, SegmentationTask)
        return {} if np.isnan(pl_module.last_loss) else {"loss": f"{pl_module.last_loss:.3f}"}

    def _get_train_description(self, current_epoch: int) -> str:
        description = f"Epoch {current_epoch + 1}/{self.trainer.max_epochs}"
        return description.ljust(len(self.validation_description))  # one width for both, or the line flickers


class _Console(logging.Handler):
    """Prints through today's sys.stdout, which a progress bar replaces by one that keeps its line clean."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), flush=True)


class _LogFile(logging.FileHandler):
    """A log that cannot be written, as on a full disk, is said once: a run does not end for it."""

    told = False

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self.told:
            self.told = True
            print(f"{self.baseFilename} cannot be written: {error.strerror}", flush=True)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # of lines that wait for room
            super().close()


@contextlib.contextmanager
def logging_to(path: Path) -> Iterator[None]:
    """Send this package's log to the console and to `path`; rank 0 only. Quiets what Lightning says of itself."""
    logger = logging.getLogger("fcn")
    handlers: list[logging.Handler] = []
    if runs.is_rank_zero():
        file = _LogFile(path, encoding="utf-8")
        file.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
        handlers = [_Console(), file]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    for handler in handlers:
        logger.addHandler(handler)
    for name in ("pytorch_lightning", "lightning.fabric", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    before, threading.excepthook = threading.excepthook, _say_nothing_of_writers
    try:
        with warnings.catch_warnings():
            _ignore_known_warnings()
            yield
    finally:
        threading.excepthook = before
        logger.propagate = True
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()


def _say_nothing_of_writers(failure: threading.ExceptHookArgs) -> None:
    """TensorBoard's thread fails as the disk does; whoever writes next is told, and ends the run."""
    if type(failure.thread).__name__ != "_AsyncWriterThread":
        threading.__excepthook__(failure)


def _ignore_known_warnings() -> None:
    # The number of workers is chosen (data.num_workers), not forgotten.
    warnings.filterwarnings("ignore", message=".*does not have many workers")
    # Our samplers know where a resumed epoch stands, though the loader has no state_dict.
    warnings.filterwarnings("ignore", message=".*your dataloader is not resumable")
    # torch 2.15 has another name for DDP's broadcast_buffers, which older ones do not know.
    warnings.filterwarnings("ignore", message=".*`broadcast_buffers` is deprecated")
    # Lightning 2.6 calls what torch 2.15 deprecates.
    warnings.filterwarnings("ignore", message=".*LeafSpec.* is deprecated")
    # Batch norm is frozen because model.freeze_batchnorm says so.
    warnings.filterwarnings("ignore", message=".*in eval mode at the start of training")
    # A process without validation images is expected: nothing is padded.
    warnings.filterwarnings("ignore", message=".*has 0 length")

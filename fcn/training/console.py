"""Console and log file of a run, progress bar, and warnings that are expected."""

from __future__ import annotations

import contextlib
import functools
import logging
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.callbacks import RichProgressBar

from fcn import runs
from fcn.config import Config
from fcn.training.task import SegmentationTask

log = logging.getLogger(__name__)

BAR_WIDTH = 40  # characters of the bar in a notebook


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


class ProgressLines(pl.Callback):
    """Logs a line every `trainer.log_seconds` within an epoch, in place of the progress bar where there is no terminal.

    Args:
        config: configuration of the run.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.seconds = config.trainer.log_seconds
        self.first_step = self.step = 0  # steps before this execution, and at the last line
        self.started = self.reported = 0.0
        self.paused = 0.0  # seconds of validation since the last line

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.first_step = self.step = trainer.global_step
        self.started = self.reported = time.monotonic()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        assert isinstance(pl_module, SegmentationTask)
        now, step = time.monotonic(), trainer.global_step
        if not self._is_due(now):
            return
        total = trainer.datamodule.total_steps  # type: ignore[attr-defined]
        epoch = (step - 1) // trainer.datamodule.steps_per_epoch + 1  # type: ignore[attr-defined]
        speed = (step - self.step) * self.config.batch_size / max(now - self.reported - self.paused, 1e-9)
        left = timedelta(seconds=round((total - step) * (now - self.started) / (step - self.first_step)))
        loss = "" if np.isnan(pl_module.last_loss) else f"loss {pl_module.last_loss:.3f}, "
        line = f"step {step}/{total}  epoch {epoch}, {loss}{speed:.1f} images/s, {left} left"
        self.report(line, step / total)
        self.step, self.reported, self.paused = step, now, 0.0

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._validation_started = self._validation_reported = time.monotonic()

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        now = time.monotonic()
        if self.seconds is not None and now - self._validation_reported >= self.seconds:
            line = f"validation of step {trainer.global_step}: batch {batch_idx + 1}/{trainer.num_val_batches[0]}"
            self.report(line, trainer.global_step / trainer.datamodule.total_steps)  # type: ignore[attr-defined]
            self._validation_reported = now

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.paused += time.monotonic() - self._validation_started

    def _is_due(self, now: float) -> bool:
        return self.seconds is not None and now - self.reported >= self.seconds

    def report(self, line: str, done: float) -> None:
        """Log a line; `done` is the share of the steps that the run has made."""
        log.info(line)


class NotebookProgress(ProgressLines):
    """Progress bar in a notebook: a line of text that is updated in place and saved with the notebook.

    Lightning's bar is a widget, which is not saved and requires another package.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.seconds = 0.5

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        from IPython.display import display  # it is installed in a notebook; fcn does not require it

        super().on_train_start(trainer, pl_module)
        self._line: Any = display({"text/plain": ""}, raw=True, display_id=True)  # type: ignore[no-untyped-call]

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        step, total = trainer.global_step, trainer.datamodule.total_steps  # type: ignore[attr-defined]
        self.report(f"step {step}/{total} in {timedelta(seconds=round(time.monotonic() - self.started))}", step / total)

    def report(self, line: str, done: float) -> None:
        """Update the bar and the text beside it."""
        cells = round(BAR_WIDTH * done)
        bar = "\N{FULL BLOCK}" * cells + "\N{LIGHT SHADE}" * (BAR_WIDTH - cells)
        self._line.update({"text/plain": f"{bar} {line}"}, raw=True)


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
            warnings.showwarning = functools.partial(_show_warning, warnings.showwarning, path)
            yield
    finally:
        threading.excepthook = previous_hook
        logger.propagate = True
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()


def _show_warning(show: Callable[..., None], path: Path, message: Warning | str, *place: Any, **options: Any) -> None:
    """Write the traceback that `trainer.detect_anomaly` prints as a warning to the log file, others as before."""
    if "Traceback of forward call" not in str(message):
        show(message, *place, **options)
        return
    with contextlib.suppress(OSError), open(path, "a", encoding="utf-8") as file:
        file.write(f"{message}\n")


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

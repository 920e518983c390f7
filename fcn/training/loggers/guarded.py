"""GuardedLogger: a logger whose failure ends no training."""

from __future__ import annotations

import contextlib
import logging
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from PIL import Image
from pytorch_lightning.loggers.logger import DummyLogger, Logger

from fcn import config as configuration
from fcn import errors, runs
from fcn.config import Config, LoggerConfig
from fcn.runs import Status

log = logging.getLogger(__name__)

FINAL_STATUS = {Status.finished: "success", Status.failed: "failed", Status.interrupted: "aborted"}
"""Lightning's words for the end of a run, by its status."""


class GuardedLogger(Logger):
    """Passes everything on to the logger of an option, from the start of training until that logger fails.

    A failure, for example of the network, a login or the disk, is logged once, with its traceback in train.log; the
    logger is then off for the rest of the run. The logger of the option is built in rank 0 only; in other
    ranks nothing happens.

    Lightning ends its loggers before the run is complete and knows no interruption: `finalize` and `save` of Lightning
    have no effect, `close` and `flush` take their place.

    Args:
        name: name of the option.
        option: the option.
        config: configuration of the run.
        run_dir: run directory.

    Attributes:
        failure: what has failed, in one line; None as long as nothing has.
    """

    def __init__(self, name: str, option: LoggerConfig, config: Config, run_dir: Path) -> None:
        super().__init__()
        self.failure: str | None = None
        self._name, self._option, self._config, self._run_dir = name, option, config, run_dir
        self._logger: Logger | None = None
        self._trainer: pl.Trainer | None = None

    @property
    def name(self) -> str:
        return self._name

    @property
    def version(self) -> str:
        return self._run_dir.name

    @property
    def save_dir(self) -> str:
        return str(self._run_dir)

    @property
    def experiment(self) -> Any:
        """The object of the library, such as the run of W&B; one that ignores all calls while the logger is off."""
        return DummyLogger().experiment if self._logger is None else getattr(self._logger, "experiment", None)

    def start(self, trainer: pl.Trainer) -> None:
        """Build the logger of the option and give it the configuration; rank 0 only."""
        self._trainer = trainer
        values = configuration.flatten(configuration.to_container(self._config))

        def build() -> None:
            self._logger = self._option.build(self._config, self._run_dir, trainer.global_step)
            self._logger.log_hyperparams(values)

        self._attempt(build)

    def record(self, values: Mapping[str, float], step: int) -> None:
        """Log scalars after optimiser step `step`, counted from 1."""
        if self._logger:
            logger = self._logger
            self._attempt(lambda: logger.log_metrics(values, step))  # type: ignore[arg-type]

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        # Lightning and its callbacks give the index of the current or last batch, from 0; others may give global_step.
        if self._trainer is not None:
            progress: Any = self._trainer.fit_loop.epoch_loop.batch_progress.current
            made = self._trainer.global_step
            latest = made + 1 if progress.ready > progress.processed else made  # a value of a step before it is made
            self.record(metrics, made if step is None else min(step + 1, latest))

    def record_pictures(self, pictures: Mapping[str, Image.Image], step: int) -> None:
        """Log pictures by name, if the logger has the method `log_image` of Lightning's WandbLogger."""
        if log_image := getattr(self._logger, "log_image", None):
            self._attempt(lambda: [log_image(name, [picture], step=step) for name, picture in pictures.items()])

    def flush(self) -> None:
        """Make everything that was logged permanent."""
        if self._logger:
            self._attempt(self._logger.save)

    def close(self, status: Status) -> None:
        """End the logger, and repeat its failure."""
        if self._logger:
            logger = self._logger
            self._attempt(lambda: logger.finalize(FINAL_STATUS[status]))
        if self.failure:
            log.warning("logger %s has not received the whole run: %s", self._name, self.failure)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: `start` logs the configuration."""

    def finalize(self, status: str) -> None:
        """Do nothing, see `close`."""

    def _attempt(self, action: Callable[[], object]) -> None:
        try:
            action()
        except Exception as error:  # whatever the library or another author's logger raises
            self._logger = None
            self.failure = errors.describe_failure(error, {}) or _one_line(error)
            log.warning("logger %s failed and is off for the rest of the run: %s", self._name, self.failure)
            with contextlib.suppress(OSError), open(self._run_dir / runs.LOG, "a", encoding="utf-8") as file:
                traceback.print_exc(file=file)


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def build_loggers(config: Config, run_dir: Path) -> list[GuardedLogger]:
    """Return the loggers of a run, in the order of its configuration; they are off until `start`."""
    return [GuardedLogger(name, option, config, run_dir) for name, option in config.logger.items()]

"""Options of the group logger.

The module is read to compose a configuration and therefore imports the loggers only where they are built.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from fcn.config import Config, ConfigError, LoggerConfig, component, setting
from fcn.config.choices import WandbMode

if TYPE_CHECKING:
    from pytorch_lightning.loggers import Logger


@component("logger", "tensorboard")
class TensorBoardOption(LoggerConfig):
    """Event files of TensorBoard in the run directory: scalars, pictures, and the row of the run in HPARAMS."""

    def build(self, config: Config, run_dir: Path, step: int) -> Logger:
        from fcn.training.loggers.tensorboard import EventFiles

        return EventFiles(config, run_dir, step=step)


@component("logger", "csv")
class CsvOption(LoggerConfig):
    """scalars.csv in the run directory: every scalar of every step and epoch; metrics.csv has those of epochs only."""

    def build(self, config: Config, run_dir: Path, step: int) -> Logger:
        from fcn.training.loggers.scalars_table import ScalarsTable

        return ScalarsTable(run_dir, step=step)


@component("logger", "wandb")
class WandbOption(LoggerConfig):
    """Run in Weights & Biases: scalars, pictures and configuration; the jobs of a sweep are a group."""

    project: str = setting("fcn", "project of W&B")
    entity: str | None = setting(None, "user or team of W&B; null: the default of the login")
    mode: WandbMode | None = setting(
        None,
        "online, offline (files in the run directory, which wandb sync uploads) or disabled; null: the environment "
        "variable WANDB_MODE, otherwise online",
    )

    def check(self, config: Config) -> None:
        _check_installed("wandb")

    def build(self, config: Config, run_dir: Path, step: int) -> Logger:
        from fcn.training.loggers.wandb_run import WandbRun

        return WandbRun(self, config, run_dir)


@component("logger", "mlflow")
class MlflowOption(LoggerConfig):
    """Run in MLflow: scalars, pictures and configuration; the jobs of a sweep have its name in their tag `sweep`."""

    experiment: str = setting("fcn", "experiment of MLflow")
    tracking_uri: str | None = setting(
        None,
        "tracking server or database; null: the environment variable MLFLOW_TRACKING_URI, otherwise mlflow.db in the "
        "current folder, which the command mlflow ui opens",
    )

    def check(self, config: Config) -> None:
        _check_installed("mlflow")

    def build(self, config: Config, run_dir: Path, step: int) -> Logger:
        from fcn.training.loggers.mlflow_run import MlflowRun

        return MlflowRun(self, config, run_dir)


def _check_installed(library: str) -> None:
    if importlib.util.find_spec(library) is None:
        raise ConfigError(f'logger (={library}) needs the package {library}; use pip install -e ".[{library}]"')

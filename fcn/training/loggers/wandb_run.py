"""Run of a run directory in Weights & Biases."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb
from pytorch_lightning.loggers import WandbLogger

from fcn.config import Config
from fcn.runs.logger_ids import read_logger_id, save_logger_id
from fcn.runs.run_names import run_name, sweep_name
from fcn.training.loggers.options import WandbOption

FINISH_SECONDS = 300
"""Time for the upload at the end of a run, which W&B does not limit; `wandb sync` uploads the rest."""


class WandbRun(WandbLogger):
    """Logger of a run of W&B, whose id is saved in the run directory, so that a resumed run continues it.

    The step of W&B is the number of optimiser steps made. W&B keeps the points that it has: online, a resumed run logs
    only later ones. Offline, every execution has files of its own with all its points.

    Args:
        option: option of the group logger.
        config: configuration of the run.
        run_dir: run directory, in which the files of W&B are written.

    Raises:
        RuntimeError: without a login; W&B would ask for one in a terminal.
    """

    def __init__(self, option: WandbOption, config: Config, run_dir: Path) -> None:
        mode: Any = option.mode.value if option.mode else os.environ.get("WANDB_MODE", "online")
        is_online = mode == "online"
        if is_online and not wandb.login(prompt=False):
            raise RuntimeError("no login; run wandb login, or use logger.wandb.mode=offline")
        identifier = read_logger_id(run_dir, "wandb") or uuid.uuid4().hex[:12]
        save_logger_id(run_dir, "wandb", identifier)
        run = wandb.init(
            id=identifier,
            name=run_name(config, run_dir),
            project=option.project,
            entity=option.entity,
            group=sweep_name(config, run_dir),
            dir=run_dir,
            mode=mode,
            resume="allow" if is_online else None,
            reinit="create_new",
            settings=wandb.Settings(finish_timeout=FINISH_SECONDS, finish_timeout_raises=True),
        )
        super().__init__(experiment=run)
        self._first_step = self._last_step = run.starting_step

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if step is None:
            self.experiment.log(dict(metrics))
        elif step >= self._first_step:
            # Values of one step belong to one row; W&B accepts rows in ascending order only.
            self._last_step = max(self._last_step, step)
            self.experiment.log(dict(metrics), step=self._last_step)

    def finalize(self, status: str) -> None:
        self.experiment.summary["status"] = status  # W&B itself knows success and failure only
        self.experiment.finish(exit_code=0 if status == "success" else 1)

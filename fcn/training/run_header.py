"""The first lines of a run: model, data, loss and learning rate, device, folder."""

from __future__ import annotations

import logging
from pathlib import Path

import pytorch_lightning as pl

from fcn.config import Config
from fcn.data.dataset_options import ShapesData
from fcn.data.module import VOCDataModule
from fcn.models.device import device_name
from fcn.training.compute import describe
from fcn.training.task import SegmentationTask

log = logging.getLogger(__name__)


class RunHeader(pl.Callback):
    """Logs the first lines of a run when training starts."""

    def __init__(self, config: Config, run_dir: Path) -> None:
        self.config = config
        self.run_dir = run_dir

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, SegmentationTask)
        data = trainer.datamodule  # type: ignore[attr-defined]
        for line in header_lines(self.config, data, pl_module):
            log.info(line)
        for line in data.warnings:
            log.warning("warning  %s", line)
        devices = f"{trainer.world_size} x {device_name(trainer.strategy.root_device)}"
        log.info("compute  %s", describe(pl_module.config, pl_module.network.model, pl_module.device))
        log.info("run      %s on %s, seed %d", self.run_dir, devices, self.config.seed)


def header_lines(config: Config, data: VOCDataModule, task: SegmentationTask) -> list[str]:
    """Return lines that describe model, data, number of steps and loss."""
    millions = sum(parameter.numel() for parameter in task.parameters()) / 1e6
    height, width = config.data.crop_size
    sets = f"{len(data.train_images)} training and {len(data.val_images)} validation images"
    dropped = f" ({data.dropped} smaller than the crop are not used)" if data.dropped else ""
    part = "" if config.data.fold is None else f" (fold {config.data.fold} of {config.data.folds})"
    frozen = "" if config.backbone.trainable else ", frozen backbone"
    lines = [
        f"model    {config.model.describe(config)}{frozen}, {millions:.1f} M parameters",
        f"data     {config.data.name}: {sets}{part}{dropped}, {len(config.data.classes)} classes, crops of "
        f"{height}x{width}",
        f"steps    {_describe_length(config, data)}, {config.batch_size} images per step",
        f"loss     {loss_line(config)}",
    ]
    if weights := task.loss.state().get("class_weights"):
        pairs = zip(config.data.classes, weights, strict=True)
        lines.append(f"         class weights {', '.join(f'{name} {weight:.3g}' for name, weight in pairs)}")
    if data.train_images.facts is None:  # also if the cache cannot be written
        lines.append("         The masks are not counted without a cache; scripts/prepare_voc.py counts them.")
    if isinstance(config.data, ShapesData):
        voc = "python train.py experiment=d2l"
        lines.append(f"         This is the built-in synthetic dataset. For Pascal VOC: {voc}")
    return lines


def _describe_length(config: Config, data: VOCDataModule) -> str:
    if config.steps is None:
        return f"{config.epochs} epochs of {data.steps_per_epoch} steps"
    interval = config.trainer.val_every_steps or data.steps_per_epoch
    epochs = config.steps / data.steps_per_epoch
    return f"{config.steps}, validation every {interval}, {epochs:.3g} epochs of {data.steps_per_epoch} steps"


def loss_line(config: Config) -> str:
    """Describe loss, optimiser, learning rate and schedule in one line."""
    line = f"{config.loss.describe()}, {config.optim.name} with lr {config.lr:g}, {config.schedule.name} schedule"
    lr = config.loss.comparable_lr(config)
    return line if lr is None else f"{line}; acts like lr {lr:.3g} on pixel_mean"

"""Pixels of the classes in the training masks."""

from __future__ import annotations

import pytorch_lightning as pl
import torch
import torch.distributed as dist

from fcn.config.choices import Protocol
from fcn.data.module import VOCDataModule
from fcn.data.set_facts import Counts
from fcn.data.statistics import count_pixels


def count_training_pixels(trainer: pl.Trainer) -> Counts:
    """Return the pixels of each class in each training mask as training sees them, int64 [images, classes].

    A collective operation: every process reads its share of the masks. The masks are counted as a whole, not as crops.
    Under `data.protocol=d2l`, void counts as background.
    """
    data = trainer.datamodule  # type: ignore[attr-defined]
    assert isinstance(data, VOCDataModule)
    images = data.train_images
    counts = torch.from_numpy(count_pixels(images, range(trainer.global_rank, len(images), trainer.world_size)))
    if trainer.world_size > 1:
        counts = counts.to(trainer.strategy.root_device)  # NCCL cannot add tensors in main memory
        dist.all_reduce(counts)
    of_classes: Counts = counts.cpu().numpy()[:, :-1]
    if data.config.data.protocol is Protocol.d2l:
        of_classes[:, 0] += counts.cpu().numpy()[:, -1]
    return of_classes

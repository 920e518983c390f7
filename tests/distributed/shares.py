"""Two training steps of every rank of a real group or of dry runs: their images and the bytes of their gradients.

python -m torch.distributed.run ... tests/distributed/shares.py FILE DATA    a rank of a gloo group, saved as FILE<rank>
python tests/distributed/shares.py FILE DATA                                 dry runs of the ranks 0 and 1
"""

import os
import sys
from typing import ClassVar

import pytorch_lightning as pl
import torch

from fcn.config.composition import compose
from fcn.data.module import VOCDataModule
from fcn.training import dry_run
from fcn.training.task import SegmentationTask
from fcn.training.trainer import build_trainer
from tests.commands import TINY

# Four steps, because DDP reports the buckets of a step in the following one. The gradients of ResNet-18 fill several.
OVERRIDES = (*TINY, "backbone=resnet18", "trainer=ddp_cpu", "data.augmentation.scale=[0.4,1.0]", "trainer.accumulate=2")


class RealSteps(pl.Callback):
    """Record the batches, and the sizes of DDP's buckets as DDP reports them."""

    def __init__(self):
        self.batches = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.batches.append({name: tensor.clone() for name, tensor in batch.items()})

    def on_train_batch_end(self, trainer, *args):
        self.reported = trainer.strategy.model._get_ddp_logging_data()


class DrySteps(dry_run.MeasuredStep):
    """Record the batches of a dry run, and the sizes of the buckets of its last step."""

    batches: ClassVar[list] = []
    buckets: ClassVar[list] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        self.batches.append({name: tensor.clone() for name, tensor in batch.items()})

    def on_train_batch_end(self, *args):
        super().on_train_batch_end(*args)
        DrySteps.buckets = self.bucket_bytes


def real_steps(data: str) -> dict:
    """Return what this rank of torchrun trains on, and the images that it validates."""
    config = compose(*OVERRIDES, f"data.root={data}")
    pl.seed_everything(config.seed, verbose=False)
    steps, images = RealSteps(), VOCDataModule(config)
    trainer = build_trainer(config, callbacks=[steps])
    trainer.fit(SegmentationTask(config), datamodule=images)
    buckets = [int(size) for size in steps.reported["rebuilt_bucket_sizes"].split(", ")]
    validated = sum(len(batch) for batch in trainer.val_dataloaders[0].batch_sampler)
    return {"batches": steps.batches[: dry_run.STEPS], "buckets": buckets, "validated": validated}


def dry_steps(data: str, rank: int) -> dict:
    """Return the images of a dry run of one rank, and its table."""
    dry_run.MeasuredStep, DrySteps.batches = DrySteps, []
    table = dry_run.dry_run(compose(*OVERRIDES, f"data.root={data}", "trainer.dry_run_processes=2"), rank=rank)
    return {"batches": DrySteps.batches, "buckets": DrySteps.buckets, "table": table}


if __name__ == "__main__":
    file, data = sys.argv[1:]
    if "RANK" in os.environ:
        torch.save(real_steps(data), f"{file}{os.environ['RANK']}")
        torch.distributed.destroy_process_group()
    else:
        torch.save([dry_steps(data, rank) for rank in range(2)], file)

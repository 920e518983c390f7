"""First step and validation of several configurations: executed by tests, and by every rank of torchrun.

python -m torch.distributed.run ... tests/distributed/steps.py FILE DATA
"""

import sys
from pathlib import Path

import pytorch_lightning as pl
import torch

from fcn.config.composition import compose
from fcn.data.module import VOCDataModule
from fcn.training.task import SegmentationTask
from fcn.training.trainer import build_trainer
from tests.commands import TINY

SQUEEZENET = "backbone=squeezenet1_0"  # without batch norm
CASES = {
    "pixel_mean": [SQUEEZENET],
    "image_sum": [SQUEEZENET, "loss=image_sum"],
    "pixel_sum": [SQUEEZENET, "loss=pixel_sum"],
    "class_weights": [SQUEEZENET, "loss.class_weights=median_frequency", "loss.label_smoothing=0.1"],
    **{loss: [SQUEEZENET, f"loss={loss}"] for loss in ("focal", "dice", "cross_entropy_dice", "lovasz", "ohem")},
    "auxiliary": [SQUEEZENET, "loss=image_sum", "model.auxiliary_weight=0.4"],
    # At least 2 images per part: rounding differs for single images and decides ties of max-pooling in uniform areas.
    "parts": [SQUEEZENET, "trainer.accumulate=2", "batch_size=16"],
    "steps": [SQUEEZENET, "epochs=null", "steps=1"],
    "one_image": [SQUEEZENET, "data.shapes.num_val=1"],  # only one process gets an image
    "frozen": ["backbone=resnet18", "model.freeze_batchnorm=true"],
    "frozen_backbone": ["backbone=resnet18", "backbone.trainable=false"],
    "clipped": [SQUEEZENET, "optim.clip_norm=0.01"],
    "clipped_parts": [SQUEEZENET, "optim.clip_norm=0.01", "trainer.accumulate=2", "batch_size=16"],
    "batch_norm": ["backbone=resnet18"],
}


class FirstStep(pl.Callback):
    """Record loss and gradients of the first step, after clipping."""

    def on_train_batch_end(self, trainer, pl_module, *args):
        gradients = {name: weight.grad.clone() for name, weight in pl_module.named_parameters() if weight.requires_grad}
        self.results = {"loss": pl_module.last_loss, "gradients": gradients}


def first_step(data: Path, *overrides: str) -> dict:
    """Return loss and gradients of a step of learning rate 0, and the scores of the validation after it."""
    padded = "data.augmentation.scale=[0.4,1.0]"  # with void, in unequal numbers of pixels per process
    config = compose(*TINY, "trainer=cpu", "epochs=1", "optim=sgd", "lr=0", padded, f"data.root={data}", *overrides)
    pl.seed_everything(0, verbose=False)
    task, step = SegmentationTask(config), FirstStep()
    trainer = build_trainer(config, callbacks=[step])
    trainer.limit_train_batches = 1
    trainer.fit(task, datamodule=VOCDataModule(config))
    return {**step.results, "scores": task.epoch_scores(), "confusion": task.metrics.confusion}


if __name__ == "__main__":
    results = {name: first_step(Path(sys.argv[2]), *overrides) for name, overrides in CASES.items()}
    if torch.distributed.get_rank() == 0:
        torch.save(results, sys.argv[1])
    torch.distributed.destroy_process_group()

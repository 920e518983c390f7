"""What a training is compared with: the chapter's loop in plain PyTorch, and our network with nothing round it."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from benchmarks.measuring import plain_torch
from fcn.config import Config
from fcn.training.compute import choose_upsampling, compile_network
from fcn.training.losses import cross_entropy, step_loss
from fcn.training.optim import build_optimizer
from fcn.training.train import build_task
from fcn.training.trainer import build_trainer

Batch = tuple[Tensor, Tensor]


def random_batch(config: Config) -> Batch:
    """Images, uint8 [N, 3, h, w], and masks without void, uint8 [N, h, w], of the training's shapes, on the CPU."""
    height, width = config.data.crop_size
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (config.batch_size, 3, height, width), dtype=torch.uint8, generator=generator)
    size = (config.batch_size, height, width)
    return images, torch.randint(len(config.data.classes), size, dtype=torch.uint8, generator=generator)


class Chapter:
    """Section 14.11 of "Dive into Deep Learning" written out: its network, loss, optimiser and training step.

    float32, NCHW, a batch of normalised floats that lies in the memory of the host. Shares no code with ours.
    """

    def __init__(self, num_classes: int, *, device: str) -> None:
        self.device = device
        trunk = torchvision.models.resnet18()
        self.net = nn.Sequential(*list(trunk.children())[:-2])
        self.net.add_module("final_conv", nn.Conv2d(512, num_classes, kernel_size=1))
        transposed = nn.ConvTranspose2d(num_classes, num_classes, kernel_size=64, padding=16, stride=32)
        self.net.add_module("transpose_conv", transposed)
        self.net.to(device)
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=1e-3, weight_decay=1e-3)

    @staticmethod
    def as_it_reads(batch: Batch) -> Batch:
        """The batch as the chapter's loader gives it: float32 [N, 3, h, w] and int64 [N, h, w]."""
        images, masks = batch
        normalise = torchvision.transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
        return normalise(images.float() / 255), masks.long()

    def step(self, batch: Batch) -> tuple[float, float]:
        """One step; the loss summed over the images, and the number of pixels that were right."""
        with plain_torch(self.device):
            images, masks = (tensor.to(self.device) for tensor in batch)
            self.net.train()
            self.optimizer.zero_grad()
            prediction = self.net(images)
            loss = F.cross_entropy(prediction, masks, reduction="none").mean(1).mean(1)
            torch.autograd.backward(loss.sum())
            self.optimizer.step()
            right = (prediction.argmax(dim=1) == masks).to(masks.dtype).sum()
            return loss.sum().item(), float(right)


class BareLoop:
    """Our network with our settings, on a batch that lies on the device: no data, no metrics, no log, no Lightning.

    Attributes:
        task: whose network, normalisation and precision are a run's.
        trainer: a run's, unused but for what it decides: device and precision.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.trainer = build_trainer(config, callbacks=[])
        self.task = build_task(config).to(self.trainer.strategy.root_device).train()
        self.batch = tuple(tensor.to(self.task.device) for tensor in random_batch(config))
        with self.precision():
            choose_upsampling(self.task.network.model, self.batch[0].float(), config)
        if config.compile:
            compile_network(self.task.network.model)
        head = list(self.task.network.model.head_parameters())
        self.optimizer = build_optimizer(self.task.network.model, head=head, config=config.optim, lr=config.lr)

    def precision(self) -> contextlib.AbstractContextManager[Any]:
        """Where forward pass and loss compute as in a run."""
        return self.trainer.precision_plugin.forward_context()

    def loss(self, logits: Tensor, masks: Tensor) -> Tensor:
        """What a step minimises."""
        reduction = self.config.loss.reduction
        return step_loss(*cross_entropy(logits, masks, reduction), reduction)

    def step(self) -> Tensor:
        """One step; its loss, a scalar on the device that nobody waits for."""
        images, masks = self.batch
        with torch.enable_grad(), torch.autocast(self.task.device.type, enabled=False):
            with self.precision():
                loss = self.loss(self.task(images), masks)
            torch.autograd.backward(loss)
            self.optimizer.step()
            self.optimizer.zero_grad()
            return loss.detach()

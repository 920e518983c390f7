"""The loops that a training is compared with: d2l's loop in plain PyTorch, and our network in a bare loop."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from benchmarks.timing import default_torch_settings, seconds_per_call, separate_process
from fcn.config import Config
from fcn.training.compute import choose_upsampling, compile_network
from fcn.training.optim import build_optimizer
from fcn.training.train import build_task
from fcn.training.trainer import build_trainer

Batch = tuple[Tensor, Tensor]


def random_batch(config: Config) -> Batch:
    """Return images, uint8 [N, 3, h, w], and masks without void, uint8 [N, h, w], on the CPU."""
    num_images, (height, width) = config.batch_size, config.data.crop_size
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (num_images, 3, height, width), dtype=torch.uint8, generator=generator)
    masks = torch.randint(len(config.data.classes), (num_images, height, width), dtype=torch.uint8, generator=generator)
    return images, masks


class D2LLoop:
    """Network, loss, optimiser and training step of section 14.11 of "Dive into Deep Learning", without our code.

    It computes in float32 and NCHW on a batch of normalised floats in CPU memory.
    """

    def __init__(self, num_classes: int, *, device: str) -> None:
        self.device = device
        self.net = nn.Sequential(*list(torchvision.models.resnet18().children())[:-2])
        self.net.add_module("final_conv", nn.Conv2d(512, num_classes, kernel_size=1))
        transposed = nn.ConvTranspose2d(num_classes, num_classes, kernel_size=64, padding=16, stride=32)
        self.net.add_module("transpose_conv", transposed)
        self.net.to(device)
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=1e-3, weight_decay=1e-3)

    @staticmethod
    def prepare(batch: Batch) -> Batch:
        """Convert a batch to that of d2l's loader: float32 [N, 3, h, w] and int64 [N, h, w]."""
        images, masks = batch
        normalize = torchvision.transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
        return normalize(images.float() / 255), masks.long()

    def step(self, batch: Batch) -> tuple[float, float]:
        """Take one step; return the loss summed over the images, and the number of correct pixels."""
        with default_torch_settings(self.device):
            images, masks = (tensor.to(self.device) for tensor in batch)
            self.net.train()
            self.optimizer.zero_grad()
            logits = self.net(images)
            loss = F.cross_entropy(logits, masks, reduction="none").mean(1).mean(1)
            torch.autograd.backward(loss.sum())
            self.optimizer.step()
            correct = (logits.argmax(dim=1) == masks).to(masks.dtype).sum()
            return loss.sum().item(), float(correct)


def d2l_process(config: Config, *, device: str, num_threads: int) -> ProcessPoolExecutor:
    """Return a process in which `measure_d2l` measures the loop of d2l.

    Args:
        config: configuration of the compared run.
        device: "cpu" or "cuda".
        num_threads: number of threads on the CPU.
    """
    return separate_process(_prepare_d2l, config, device, num_threads)


_d2l_step: Callable[[], object]  # in the process of `d2l_process`


def _prepare_d2l(config: Config, device: str, num_threads: int) -> None:
    global _d2l_step
    torch.set_num_threads(num_threads)
    loop = D2LLoop(len(config.data.classes), device=device)
    _d2l_step = partial(loop.step, loop.prepare(random_batch(config)))


def measure_d2l(steps: int) -> float:
    """Return the mean time of `steps` steps in seconds, after two warm-up steps; for the process of `d2l_process`."""
    return seconds_per_call(_d2l_step, calls=steps)


class BareLoop:
    """Our network with a run's settings on one batch on the device: no data loading, metrics, log or Lightning.

    Attributes:
        task: task of a run, for its network and loss.
        trainer: trainer of a run, for its device and precision; it does not train.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.trainer = build_trainer(config, callbacks=[])
        self.task = build_task(config).to(self.trainer.strategy.root_device).train()
        self._loss = config.loss.build(lambda: np.ones((1, len(config.data.classes)), np.int64))
        self.batch = tuple(tensor.to(self.task.device) for tensor in random_batch(config))
        model = self.task.network.model
        with self.precision():
            choose_upsampling(model, self.batch[0].float(), config)
        if config.compile:
            compile_network(model)
        self.optimizer = build_optimizer(model, head=list(model.head_parameters()), config=config.optim, lr=config.lr)

    def precision(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context in which a run computes logits and loss."""
        return self.trainer.precision_plugin.forward_context()

    def loss(self, logits: Tensor, masks: Tensor) -> Tensor:
        """Return the minimised loss of a step."""
        loss: Tensor = self._loss.step_loss(self._loss.numerator(logits, masks), self._loss.count(masks))
        return loss

    def step(self) -> Tensor:
        """Take one step; return its loss, a scalar on the device, without waiting for it."""
        images, masks = self.batch
        with torch.enable_grad(), torch.autocast(self.task.device.type, enabled=False):
            with self.precision():
                loss = self.loss(self.task(images), masks)
            torch.autograd.backward(loss)
            self.optimizer.step()
            self.optimizer.zero_grad()
            return loss.detach()

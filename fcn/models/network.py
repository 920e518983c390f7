"""The network of a run: takes images as they are stored, normalises them, and gives the logits of every pixel."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fcn.config import Config
from fcn.config.choices import Layout
from fcn.models.device import has_gpu

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class SegmentationNetwork(nn.Module):
    """Model with its normalisation and memory layout: everything that training, inference and export share.

    Its state dict holds the weights of the model alone, under names that begin with `model.`.

    Attributes:
        config: configuration of the run.
        model: takes normalised float images; what `torch.compile` compiles.
        layout: memory format of images and weights.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: Config, *, pretrained: bool = True) -> None:
        """Build the model, initialised from torch's global generator; raises as `ModelConfig.build`.

        Args:
            config: configuration of the run.
            pretrained: whether to load the pretrained weights of the configuration; False for a network that gets the
                weights of a checkpoint, which needs no other file.
        """
        super().__init__()
        built = config if pretrained else _without_pretrained_weights(config)
        self.model = built.model.build(built)
        self.configure(config)
        if config.model.freeze_batchnorm:
            for norm in self._batch_norms():
                norm.requires_grad_(False)
        self._frozen = [] if config.backbone.trainable else self.backbone_modules()
        for module in self._frozen:
            module.requires_grad_(False)
        self._evaluated: tuple[nn.Module, ...] = ()  # in a tuple, so that it is no submodule, which would be trained
        self.train(self.training)
        # Backbones that have no attributes `mean` and `std` expect ImageNet's.
        backbone = getattr(self.model, "backbone", None)
        for name, default in (("mean", IMAGENET_MEAN), ("std", IMAGENET_STD)):
            values = getattr(self.model, name, getattr(backbone, name, default))
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def configure(self, config: Config) -> None:
        """Use the memory layout of a configuration that otherwise equals that of the network."""
        self.config = config
        self.layout = memory_layout(config)
        self.model = self.model.to(memory_format=self.layout)

    @property
    def device(self) -> torch.device:
        return self.mean.device

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of every pixel, float [N, C, H, W].

        Args:
            images: [N, 3, H, W] of any size, RGB, uint8 or float in [0, 1].
        """
        return self.all_logits(images)[0]

    def all_logits(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the logits as `forward` and, in training, those of the auxiliary head if the model has one."""
        # The compiled model is for training's crops of one size; whole images would be compiled size by size.
        model = self.model if self.training else self.evaluated_model.forward
        logits = model(self.normalize(images.contiguous(memory_format=self.layout)))
        return logits if isinstance(logits, tuple) else (logits,)

    @property
    def evaluated_model(self) -> nn.Module:
        """Model of evaluation mode: `model`, or that of `use_in_evaluation`."""
        return self._evaluated[0] if self._evaluated else self.model

    def use_in_evaluation(self, model: nn.Module) -> None:
        """Use another model of the same architecture in evaluation mode, such as one with averaged weights."""
        self._evaluated = (model,)

    @property
    def normalization(self) -> dict[str, list[float]]:
        """Mean and standard deviation per channel, as saved in checkpoints; timm may publish others later."""
        return {"mean": self.mean.flatten().tolist(), "std": self.std.flatten().tolist()}

    def set_normalization(self, normalization: Mapping[str, Sequence[float]]) -> None:
        """Set mean and standard deviation to those of a checkpoint; they are unchanged if it is of an older version."""
        for name, values in normalization.items():
            buffer = self.get_buffer(name)
            buffer.copy_(torch.tensor(values).view_as(buffer))

    def normalize(self, images: Tensor) -> Tensor:
        """Return the input of `model`, float [N, 3, H, W], for images as `forward` takes them."""
        # The operations of torchvision's ToTensor and Normalize in their order, for bit-identical results.
        unit = images if images.is_floating_point() else images.to(self.mean.dtype) / 255
        return (unit - self.mean) / self.std

    def train(self, mode: bool = True) -> SegmentationNetwork:
        """Set training or evaluation mode; frozen batch norm and a frozen backbone stay in evaluation mode."""
        super().train(mode)
        for module in self._frozen:
            module.eval()
        if self.config.model.freeze_batchnorm:
            for norm in self._batch_norms():
                norm.eval()
        return self

    def backbone_modules(self) -> list[nn.Module]:
        """Return the largest modules that have parameters, but none of the head."""
        head: Any = self.model.head_parameters
        return _backbone_modules(self.model, set(head()))

    def _batch_norms(self) -> list[Any]:
        return [module for module in self.model.modules() if isinstance(module, _BatchNorm)]


def _without_pretrained_weights(config: Config) -> Config:
    return replace(config, backbone=config.backbone.untrained(), model=config.model.untrained())


def predicted_classes(logits: Tensor) -> Tensor:
    """Return the class of highest score at every pixel, uint8 [N, H, W]; the first of equal scores.

    A pixel with a NaN has an undefined class.

    Args:
        logits: [N, C, H, W], C at most 255.
    """
    if logits.device.type != "cpu":
        return logits.max(dim=1).indices.to(torch.uint8)
    # On a CPU, this takes about half of the time of `max`, whose indices are not vectorised. One image at a time stays
    # in the cache of the processor.
    num_classes = logits.shape[1]
    ranks = torch.arange(num_classes, 0, -1, dtype=torch.uint8).view(1, -1, 1, 1)
    classes = [
        num_classes - ((image == image.amax(dim=1, keepdim=True)) * ranks).amax(dim=1)
        for image in torch.split(logits, 1)
    ]
    return torch.cat(classes).clamp_(max=num_classes - 1)


@contextlib.contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Set evaluation mode, and restore the mode of every module: frozen batch norm was in evaluation mode before."""
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def _backbone_modules(module: nn.Module, head: Set[nn.Parameter]) -> list[nn.Module]:
    parameters = set(module.parameters())
    if parameters and not parameters & head:
        return [module]
    return [each for child in module.children() for each in _backbone_modules(child, head)]


def memory_layout(config: Config) -> torch.memory_format:
    """Return `trainer.layout`; before a measurement, `fastest` is `auto`.

    `auto` is channels last, which tensor cores and AVX-512 prefer, except on CPUs with AVX2 only: there, the weight
    gradient of a convolution takes 1.5 times as long with channels last.
    """
    layout = config.trainer.layout
    if layout in (Layout.channels_last, Layout.channels_first):
        return torch.channels_last if layout is Layout.channels_last else torch.contiguous_format
    on_gpu = has_gpu(config.trainer.accelerator)
    is_avx2 = torch.backends.cpu.get_cpu_capability() == "AVX2"
    return torch.contiguous_format if is_avx2 and not on_gpu else torch.channels_last

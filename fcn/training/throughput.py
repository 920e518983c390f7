"""Speed of training: images per second, waiting for data, arithmetic rate, and its share of the peak of the device."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any, cast

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from fcn.config.choices import Precision
from fcn.errors import message_line
from fcn.models.device import device_name
from fcn.models.network import SegmentationNetwork
from fcn.runs.summary import Summary
from fcn.training.compute import chosen_precision
from fcn.training.monitors import peak_memory_mib

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Peak:
    """Dense peaks of a GPU from its data sheet: operations per second in bfloat16 and in TF32, bytes per second."""

    bf16: float
    tf32: float
    bandwidth: float

    def rate(self, precision: Precision) -> float:
        """Return operations per second; convolutions in fp32 use TF32, which is PyTorch's default."""
        return self.tf32 if precision is Precision.fp32 else self.bf16


# Keys are parts of CUDA's device name; the first match is used.
PEAKS = {
    "H200": Peak(989e12, 494e12, 4.8e12),
    "H100 NVL": Peak(835e12, 417e12, 3.9e12),
    "H100 PCIe": Peak(756e12, 378e12, 2.0e12),
    "H100": Peak(989e12, 494e12, 3.35e12),
    "A100 80GB PCIe": Peak(312e12, 156e12, 1.935e12),
    "A100-SXM4-80GB": Peak(312e12, 156e12, 2.039e12),
    "A100": Peak(312e12, 156e12, 1.555e12),
}


def peak_of(device_name: str) -> Peak | None:
    """Return the peaks of a GPU, or None if it is not in the table."""
    return next((peak for part, peak in PEAKS.items() if part in device_name), None)


class Speed:
    """Times of the training steps of a run, over all its executions, without validation.

    Attributes:
        images: training images of all processes.
        seconds: time of the steps, including waiting for data.
        data_seconds: time in which this process waited for a batch, or moved it to its device.
    """

    def __init__(self) -> None:
        self.images = self.seconds = self.data_seconds = 0.0
        self._step_started = time.monotonic()
        self._device = torch.device("cpu")
        self._operations = 0  # of a training image; 0 if they could not be counted
        self._peak = 0.0  # operations per second of all devices; 0 if not known

    def prepare(self, network: SegmentationNetwork, trainer: pl.Trainer) -> None:
        """Count the operations of a training image, and look up the peak of the devices."""
        self._device = trainer.strategy.root_device
        try:
            self._operations = count_training_operations(network)
        except Exception as error:  # a network of another package may need the values of a tensor
            log.info("speed    TFLOP/s unknown: the operations were not counted (%s)", message_line(str(error)))
        if self._device.type == "cuda" and (peak := peak_of(device_name(self._device))):
            precision = chosen_precision(network.config, on_gpu=True)
            self._peak = peak.rate(precision) * trainer.world_size

    def state_dict(self) -> dict[str, float]:
        return {"images": self.images, "train_seconds": self.seconds, "data_seconds": self.data_seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.images, self.seconds = state["images"], state["train_seconds"]
        self.data_seconds = state.get("data_seconds", 0.0)  # checkpoints of earlier versions lack it

    def start(self) -> None:
        """Begin the first step, or go on after an interruption such as a validation."""
        self._step_started = time.monotonic()

    def batch_arrived(self) -> None:
        """Note that the batch of the step is on the device."""
        self.data_seconds += time.monotonic() - self._step_started

    def step_done(self, images: int) -> None:
        """Note that a step on `images` images of all processes has ended, and begin the next one."""
        now = time.monotonic()
        self.images += images
        self.seconds += now - self._step_started
        self._step_started = now

    @property
    def images_per_second(self) -> float:
        return self.images / self.seconds if self.seconds else 0.0

    @property
    def data_share(self) -> float:
        """Share of the time in which a step waits for data, from 0 to 1."""
        return self.data_seconds / self.seconds if self.seconds else 0.0

    def scalars(self) -> dict[str, float]:
        """Return speed and memory by the names of summary.json, see `fcn.runs.summary.Summary`."""
        scalars = {"images_per_second": self.images_per_second, "data_wait": self.data_share}
        rate = self.images_per_second * self._operations
        if self._operations:
            scalars["tflops"] = rate / 1e12
        if self._operations and self._peak:
            scalars["mfu"] = rate / self._peak
        return {**scalars, "memory_mib": peak_memory_mib(self._device)}

    def summary(self) -> Summary:
        """Return the scalars as entries of summary.json."""
        return cast(Summary, {name: round(value, 4) for name, value in self.scalars().items()})

    def describe(self, devices: str) -> str:
        """Return one line: `31.0 images/s on 1 x CPU, 1 % of the time waiting for data, 0.12 TFLOP/s, ...`."""
        scalars = self.scalars()
        mfu = f" ({100 * scalars['mfu']:.0f} % of the peak)" if "mfu" in scalars else ""
        rate = [f"{scalars['tflops']:.3g} TFLOP/s{mfu}"] if "tflops" in scalars else []
        return ", ".join(
            [
                f"{self.images_per_second:.1f} images/s on {devices}",
                f"{100 * self.data_share:.0f} % of the time waiting for data",
                *rate,
                f"peak memory {scalars['memory_mib']:.0f} MiB",
            ]
        )


class _AllLogits(nn.Module):
    def __init__(self, network: SegmentationNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.network.all_logits(images)


def _convolution_backward(
    gradient: Any, images: Any, weight: Any, *settings: Any, out_shape: Any = None, **others: Any
) -> int:
    """Return the operations of the gradients of a convolution: as many as the forward pass for each.

    The formula of torch 2.15 is wrong for grouped convolutions.
    """
    *_, transposed, _, _, mask = settings
    return int(conv_flop_count(images, weight, gradient, transposed=transposed) * sum(mask[:2]))


CORRECTED = {torch.ops.aten.convolution_backward: _convolution_backward}
"""Formulas in place of those of torch, for `FlopCounterMode`."""


def count_training_operations(network: SegmentationNetwork) -> int:
    """Return the floating-point operations of the forward and backward pass of one training crop.

    Convolutions, matrix products and attention count, with two operations for a multiplication and its addition.
    Nothing is computed: the tensors are on the device `meta`. Parameters and buffers do not change.

    Raises:
        Exception: of any type, if the network cannot be executed on tensors without values.
    """
    module = _AllLogits(network)
    norms = [each for each in network.modules() if isinstance(each, _BatchNorm) and each.training]
    tensors = {
        name: tensor.detach().to("meta").requires_grad_(tensor.requires_grad)
        for name, tensor in (*module.named_parameters(), *module.named_buffers())
    }
    height, width = network.config.data.crop_size
    images = torch.empty(1, 3, height, width, device="meta")
    for norm in norms:  # it would fail on a single value per channel, and communicate if it is synchronised
        norm.eval()
    try:
        with torch.enable_grad(), FlopCounterMode(display=False, custom_mapping=CORRECTED) as counter:
            logits = functional_call(module, tensors, (images,))
            trained = [tensor for tensor in tensors.values() if tensor.requires_grad]
            torch.autograd.grad([each.sum() for each in logits], trained, allow_unused=True)
    finally:
        for norm in norms:
            norm.train()
    return int(counter.get_total_flops())

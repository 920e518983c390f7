"""Settings chosen by a measurement: the value `fastest` of `trainer.layout` and `trainer.precision`.

They are measured once per run. Checkpoints and summary.json contain the chosen values, so that a resumed or repeated
run gives bit-identical results although the measured times differ.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from pytorch_lightning.plugins import MixedPrecision
from pytorch_lightning.plugins import Precision as FullPrecision
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor

from fcn.config import Config
from fcn.config.choices import Layout, Precision
from fcn.models.network import SegmentationNetwork
from fcn.training.compute import buffers_kept, chosen_precision, chosen_settings
from fcn.training.losses.pixels import log_probabilities

if TYPE_CHECKING:
    from fcn.training.task import SegmentationTask

log = logging.getLogger(__name__)

CPU_CROPS = 2
"""Crops of a measurement on a CPU, whose time is proportional to their number."""

ROUNDS = 3
"""Timed passes of each candidate, of which the fastest counts; an earlier one compiles kernels and allocates."""


def choose_fastest_settings(task: SegmentationTask) -> None:
    """Measure the settings of a new run that are `fastest`, and use the fastest; a collective operation.

    Called before DDP and the optimiser get the weights, whose memory layout must not change later.
    """
    config, trainer = task.config, task.trainer
    if trainer.ckpt_path is None and (
        config.trainer.layout is Layout.fastest or config.trainer.precision is Precision.fastest
    ):
        device = trainer.strategy.root_device
        size = config.batch_size // (trainer.world_size * task.parts.number)
        with torch.enable_grad(), isolate_rng(include_cuda=device.type == "cuda"):
            crops = torch.rand(size, 3, *config.data.crop_size, device=device)
            _use(task, fastest_settings(config, task.network.train().to(device), crops))


def use_saved_settings(task: SegmentationTask, saved: Mapping[str, Any]) -> None:
    """Use the settings of the configuration in a checkpoint, plain values, in place of `fastest`."""
    settings = task.config.trainer
    if settings.layout is Layout.fastest:
        settings = replace(settings, layout=Layout(saved["trainer"].get("layout", Layout.auto)))
    if settings.precision is Precision.fastest:
        settings = replace(settings, precision=Precision(saved["trainer"]["precision"]))
    if settings is not task.config.trainer:
        _use(task, replace(task.config, trainer=settings))


def _use(task: SegmentationTask, config: Config) -> None:
    """Use layout and precision of a configuration that otherwise equals that of the task."""
    if task.config.trainer.precision is Precision.fastest:
        strategy = task.trainer.strategy
        device = strategy.root_device.type
        is_bf16 = chosen_precision(config, on_gpu=device == "cuda") is Precision.bf16
        strategy.precision_plugin = MixedPrecision("bf16-mixed", device) if is_bf16 else FullPrecision()
    task.config = config
    task.network.configure(config)


def fastest_settings(config: Config, network: SegmentationNetwork, crops: Tensor) -> Config:
    """Return the configuration with the fastest settings in place of `fastest`.

    All processes choose the same settings, by the sum of their times. The weights and the statistics of batch norm do
    not change.

    Args:
        config: configuration of the run.
        network: network of the run, on its device.
        crops: images of a step of this process, float [N, 3, h, w] in [0, 1], on the device.
    """
    on_gpu = crops.device.type == "cuda"
    crops = crops if on_gpu else crops[:CPU_CROPS]
    layouts, precisions = [config.trainer.layout], [config.trainer.precision]
    if config.trainer.layout is Layout.fastest:
        layouts = [Layout.channels_last, Layout.channels_first]
    if config.trainer.precision is Precision.fastest:
        precisions = [Precision.fp32, Precision.bf16]
    candidates = [
        replace(config, trainer=replace(config.trainer, layout=layout, precision=precision))
        for layout, precision in itertools.product(layouts, precisions)
    ]
    seconds = torch.full((len(candidates),), torch.inf, dtype=torch.float64, device=crops.device)
    with buffers_kept(network):
        for number in range(ROUNDS + 1):
            for place, candidate in enumerate(candidates):
                measured = _seconds(candidate, network, crops)
                if number:
                    seconds[place] = min(measured, float(seconds[place]))
    if dist.is_initialized():
        dist.all_reduce(seconds)
        seconds /= dist.get_world_size()
    names = ["{precision}, {layout}".format(**chosen_settings(each, crops.device)) for each in candidates]
    listed = [f"{name} {1000 * value:.0f} ms" for name, value in zip(names, seconds.tolist(), strict=True)]
    log.info("measured %s (forward and backward pass of %d crops)", "; ".join(listed), len(crops))
    return candidates[int(seconds.argmin())]


def _seconds(config: Config, network: SegmentationNetwork, crops: Tensor) -> float:
    """Return the time of a forward and backward pass with the settings of a configuration."""
    network.configure(config)
    dtype = {Precision.bf16: torch.bfloat16, Precision.fp16: torch.float16}.get(
        chosen_precision(config, on_gpu=crops.device.type == "cuda")
    )
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    _wait_for(crops.device)
    begin = time.perf_counter()
    with torch.enable_grad():
        with torch.autocast(crops.device.type, dtype=dtype, enabled=dtype is not None):
            loss = torch.stack([log_probabilities(logits).mean() for logits in network.all_logits(crops)]).sum()
        # Not `backward`, which would call the hooks of callbacks.
        torch.autograd.grad(loss, parameters, allow_unused=True)
    _wait_for(crops.device)
    return time.perf_counter() - begin


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

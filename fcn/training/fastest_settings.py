"""Settings chosen by a measurement: the value `fastest` of `trainer.layout` and `trainer.precision`.

They are measured once per run. Checkpoints and summary.json contain the chosen values, so that a resumed or repeated
run gives bit-identical results although the measured times differ.
"""

from __future__ import annotations

import gc
import itertools
import logging
import math
import time
from collections.abc import Mapping, Sequence
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
from fcn.errors import is_out_of_memory
from fcn.models.network import SegmentationNetwork
from fcn.training.compute import buffers_kept, chosen_precision, chosen_settings
from fcn.training.losses.pixels import log_probabilities

if TYPE_CHECKING:
    from fcn.training.task import SegmentationTask

log = logging.getLogger(__name__)

MIN_CROPS = 2
"""Smallest number of crops of a measurement; batch norm may refuse a single one.

It is the number on a CPU, where the time is proportional to it, and on a GPU whose memory is too small for more.
"""

ROUNDS = 3
"""Timed passes of each candidate, of which the minimum is used; one pass that is not timed precedes them."""


def choose_fastest_settings(task: SegmentationTask) -> None:
    """Measure the settings of a new run that are `fastest`, and use the fastest; a collective operation.

    Called before DDP and the optimiser get the weights, whose memory layout must not change later. A run is new unless
    `trainer.ckpt_path` is set.

    Raises:
        RuntimeError: that memory is not available, if none of the settings fits into the memory.
    """
    config, trainer = task.config, task.trainer
    if trainer.ckpt_path is None and (
        config.trainer.layout is Layout.fastest or config.trainer.precision is Precision.fastest
    ):
        device = trainer.strategy.root_device
        is_on_gpu = device.type == "cuda"
        size = config.batch_size // (trainer.world_size * task.parts.number) if is_on_gpu else MIN_CROPS
        with torch.enable_grad(), isolate_rng(include_cuda=is_on_gpu):
            crops = torch.rand(max(size, MIN_CROPS), 3, *config.data.crop_size, device=device)
            _use(task, fastest_settings(config, task.network.train().to(device), crops))
        if is_on_gpu:  # the reported peak is that of the steps
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)


def use_saved_settings(task: SegmentationTask, saved: Mapping[str, Any]) -> None:
    """Use the settings of the configuration in a checkpoint, plain values, in place of `fastest`."""
    settings = task.config.trainer.with_measured({"layout": Layout.auto, **saved["trainer"]})
    if settings != task.config.trainer:
        log.info("settings of the checkpoint are kept: %s, %s", settings.precision.value, settings.layout.value)
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

    All processes choose the same settings, by the sum of their times. A setting that does not fit into the memory of a
    process is not chosen; if none fits, fewer crops are measured. The network is not compiled. Its weights and the
    statistics of batch norm do not change.

    Args:
        config: configuration of the run.
        network: network of the run, on its device.
        crops: images of a step of this process, float [N, 3, h, w] in [0, 1], on the device; at least `MIN_CROPS`.

    Raises:
        RuntimeError: if no setting fits into the memory.
    """
    layouts, precisions = [config.trainer.layout], [config.trainer.precision]
    if config.trainer.layout is Layout.fastest:
        layouts = [Layout.channels_last, Layout.channels_first]
    if config.trainer.precision is Precision.fastest:
        precisions = [Precision.fp32, Precision.bf16]
    candidates = [
        replace(config, trainer=replace(config.trainer, layout=layout, precision=precision))
        for layout, precision in itertools.product(layouts, precisions)
    ]
    with buffers_kept(network):
        seconds = _fastest_passes(candidates, network, crops)
    labels = ["{precision}, {layout}".format(**chosen_settings(candidate, crops.device)) for candidate in candidates]
    times = [f"{label} {1000 * value:.0f} ms" for label, value in zip(labels, seconds.tolist(), strict=True)]
    log.info("measured %s (forward and backward pass of %d crops)", "; ".join(times), len(crops))
    if dist.is_initialized():
        dist.all_reduce(seconds)
    if not seconds.isinf().all():
        return candidates[int(seconds.argmin())]
    if len(crops) <= MIN_CROPS:
        raise RuntimeError(f"out of memory in a forward and backward pass of {len(crops)} crops")
    return fastest_settings(config, network, crops[: max(len(crops) // 2, MIN_CROPS)])


def _fastest_passes(candidates: Sequence[Config], network: SegmentationNetwork, crops: Tensor) -> Tensor:
    """Return the seconds of each candidate, float64; infinite if it does not fit into the memory."""
    seconds = torch.full((len(candidates),), torch.inf, dtype=torch.float64, device=crops.device)
    for number in range(ROUNDS + 1):
        for index, candidate in enumerate(candidates):
            if number > 1 and seconds[index].isinf():
                continue
            try:
                measured = _seconds(candidate, network, crops)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                measured = math.inf
            if math.isinf(measured):
                gc.collect()
                torch.cuda.empty_cache()
            if number:
                seconds[index] = min(measured, float(seconds[index]))
    return seconds


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

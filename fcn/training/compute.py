"""How a process computes: precision, algorithm of the upsampling and compilation, chosen for its device."""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fcn.config import Config, ConfigError
from fcn.config.choices import Algorithm, Layout, Precision
from fcn.models.activation_checkpointing import checkpoint_activations
from fcn.models.network import SegmentationNetwork, evaluation_mode, memory_layout
from fcn.models.upsampling import Upsampling
from fcn.runs.summary import Execution

REPETITIONS = 12
"""Timed runs of each algorithm; the first are slow, which does not affect the median."""


def chosen_precision(config: Config, *, on_gpu: bool) -> Precision:
    """Return `trainer.precision`; `auto` is bf16 on GPUs that support it natively, and fp32 otherwise.

    On a CPU `auto` is always fp32: few CPUs support bf16, and on the others it is several times slower. Before a
    measurement, `fastest` is `auto`.
    """
    if config.trainer.precision not in (Precision.auto, Precision.fastest):
        return config.trainer.precision
    supports_bf16 = on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    return Precision.bf16 if supports_bf16 else Precision.fp32


def chosen_settings(config: Config, device: torch.device) -> Execution:
    """Return `precision` and `layout` of a run on a device, as in summary.json: neither is `auto`."""
    layout = Layout.channels_last if memory_layout(config) is torch.channels_last else Layout.channels_first
    return {"precision": chosen_precision(config, on_gpu=device.type == "cuda").value, "layout": layout.value}


def prepare_network(network: SegmentationNetwork, *, parts: int) -> None:
    """Check batch norm, choose the algorithms of the upsampling, and set up activation checkpointing if configured.

    Args:
        network: network in training mode, on its device.
        parts: number of parts of a step over all processes.

    Raises:
        ConfigError: as `check_batch_norm`, or if activation checkpointing cannot be used with the backbone.
    """
    config = network.config
    crops = torch.zeros(config.batch_size // parts, 3, *config.data.crop_size, device=network.device)
    check_batch_norm(network, crops, config, parts=parts)
    choose_upsampling(network.model, crops.contiguous(memory_format=network.layout), config)
    if config.trainer.activation_checkpointing:
        checkpoint_activations(network, crops[:1])


def check_batch_norm(network: nn.Module, crops: Tensor, config: Config, *, parts: int) -> None:
    """Check that every batch norm gets more than one value per channel, whose variance would be undefined.

    Only a forward pass tells how small the feature maps of a backbone become. It is made if a part is a single image,
    and leaves the statistics of batch norm as they were.

    Args:
        network: network in training mode.
        crops: images of a part of a step, of one process, [N, 3, H, W].
        config: configuration of the run.
        parts: number of parts of a step over all processes.

    Raises:
        ConfigError: if a batch norm gets one value.
    """
    if len(crops) > 1:
        return
    try:
        with torch.no_grad(), buffers_kept(network):
            network(crops)
    except ValueError as error:
        if "Expected more than 1 value per channel" not in str(error):
            raise
        size = ",".join(map(str, config.data.crop_size))
        raise ConfigError(
            f"batch_size (={config.batch_size}) must give batch norm more than one value per channel, but one image "
            f"per process and part has a single cell with data.crop_size (=[{size}]); use batch_size={2 * parts}, a "
            "larger data.crop_size, or model.freeze_batchnorm=true"
        ) from None


@contextlib.contextmanager
def buffers_kept(network: nn.Module) -> Iterator[None]:
    """Restore all buffers at the end, such as the statistics of batch norm, also after an exception."""
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    try:
        yield
    finally:
        for name, buffer in network.named_buffers():
            buffer.copy_(before[name])


def compile_network(network: nn.Module) -> None:
    """Compile the network in place, so that the names of its weights do not change.

    Raises:
        ConfigError: if there is no C++ compiler; torch.compile needs one on a CPU and on a GPU.
    """
    compilers = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++", "c++"]
    if not any(map(shutil.which, compilers)):
        raise ConfigError(
            f"compile (=true) needs a C++ compiler, and there is no {' or '.join(compilers)}; install one, set the "
            "environment variable CXX, or use compile=false"
        )
    network.compile(dynamic=False)


def choose_upsampling(network: nn.Module, images: Tensor, config: Config) -> None:
    """Set the algorithm of every transposed convolution to `trainer.upsampling`; `auto` measures it on a GPU.

    All processes choose the same algorithm, by the sum of their times. Deterministic runs use `transposed`, because
    measured times differ from run to run.

    Args:
        network: the network, on its device.
        images: any images of the shape and dtype of a training step.
        config: configuration of the run.
    """
    algorithm = config.trainer.upsampling
    layers = [module for module in network.modules() if isinstance(module, Upsampling)]
    for layer in layers:
        layer.algorithm = algorithm
    if algorithm is Algorithm.auto and images.device.type != "cpu":
        if config.deterministic:
            for layer in layers:
                layer.algorithm = Algorithm.transposed
        else:
            select_fastest_upsampling(network, images, layers)


def select_fastest_upsampling(network: nn.Module, images: Tensor, layers: list[Upsampling]) -> None:
    """Set each layer to the algorithm with the faster forward and backward pass on its input for `images`."""
    inputs = _inputs_of(network, images, layers)
    candidates = (Algorithm.transposed, Algorithm.subpixel)
    for layer, scores in inputs.items():
        seconds = torch.zeros(len(candidates), dtype=torch.float64, device=scores.device)
        for number, layer.algorithm in enumerate(candidates):
            seconds[number] = _seconds(layer, scores)
        if dist.is_initialized():
            dist.all_reduce(seconds)
        layer.algorithm = candidates[int(seconds.argmin())]


def _inputs_of(network: nn.Module, images: Tensor, layers: list[Upsampling]) -> dict[Upsampling, Tensor]:
    """Return the input of each layer; the statistics of batch norm do not change."""
    inputs: dict[Upsampling, Tensor] = {}

    def keep(layer: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, Upsampling)
        inputs[layer] = arguments[0].detach()

    hooks = [layer.register_forward_pre_hook(keep) for layer in layers]
    with torch.no_grad(), evaluation_mode(network):
        network.forward(images)
    for hook in hooks:
        hook.remove()
    return inputs


def _seconds(layer: Upsampling, scores: Tensor) -> float:
    """Return the median time of a forward and backward pass over `REPETITIONS`."""
    weights = [weight for weight in layer.parameters() if weight.requires_grad]
    scores = scores.clone().requires_grad_()

    def run() -> None:
        torch.autograd.grad(layer(scores).sum(), [scores, *weights])

    return statistics.median(_timed(run, scores.device) for _ in range(REPETITIONS))


def _timed(run: Callable[[], Any], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begin = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin


def describe(config: Config, network: nn.Module, device: torch.device) -> str:
    """Return one line with all choices: `fp32, channels last, fused adamw, transposed upsampling`."""
    on_gpu = device.type == "cuda"
    layers = [module for module in network.modules() if isinstance(module, Upsampling)]
    algorithms = dict.fromkeys(layer.chosen(device).value for layer in layers)
    settings = chosen_settings(config, device)
    optimizer = f"{'fused ' if config.optim.is_fused else ''}{config.optim.name}"
    parts = [settings["precision"], settings["layout"].replace("_", " "), optimizer]
    if algorithms:
        parts.append(f"{' and '.join(algorithms)} upsampling")
    if config.compile:
        parts.append("compiled")
    if on_gpu:
        parts.append("deterministic algorithms" if config.deterministic else "cuDNN tuned")
    if config.trainer.first_parts > 1:
        parts.append(f"each step in {config.trainer.accumulate} parts")
    if config.trainer.activation_checkpointing:
        parts.append("activation checkpointing")
    return ", ".join(parts)

"""What a process computes with: precision, algorithms, compilation; chosen for its device and said in the header."""

from __future__ import annotations

import os
import shutil
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fcn.config import Algorithm, Config, ConfigError, Precision
from fcn.models.network import memory_layout
from fcn.models.upsampling import Upsampling

REPETITIONS = 12
"""Of each algorithm when they are compared; the first ones are slow, which the median does not mind."""


def chosen_precision(config: Config, *, on_gpu: bool) -> Precision:
    """`trainer.precision`, of which `auto` is bf16 on GPUs that compute in it, and fp32 elsewhere.

    A CPU stays at fp32 by itself: few compute in bf16, on the others it is several times slower.
    """
    if config.trainer.precision is not Precision.auto:
        return config.trainer.precision
    computes_in_bf16 = on_gpu and torch.cuda.is_bf16_supported(including_emulation=False)
    return Precision.bf16 if computes_in_bf16 else Precision.fp32


def compile_network(network: nn.Module) -> None:
    """Compile in place, so that the names of the weights stay what they are.

    Raises:
        ConfigError: if there is no C++ compiler, which torch.compile needs on a CPU as on a GPU.
    """
    compilers = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++", "c++"]
    if not any(map(shutil.which, compilers)):
        raise ConfigError(
            f"compile (=true) needs a C++ compiler, and there is no {' or '.join(compilers)}; install one, have the "
            "environment variable CXX name one, or use compile=false"
        )
    network.compile(dynamic=False)


def choose_upsampling(network: nn.Module, images: Tensor, config: Config) -> None:
    """Set the algorithm of every transposed convolution: as `trainer.upsampling` says, or by measurement on a GPU.

    All processes decide alike, by the sum of their times. A run that is deterministic takes `transposed`: what is
    measured differs from run to run.

    Args:
        network: on its device.
        images: of the size and type of a training step's, whatever is in them.
        config: of the run.
    """
    wanted = config.trainer.upsampling
    layers = [module for module in network.modules() if isinstance(module, Upsampling)]
    for layer in layers:
        layer.algorithm = wanted
    if wanted is Algorithm.auto and images.device.type != "cpu":
        if config.deterministic:
            for layer in layers:
                layer.algorithm = Algorithm.transposed
        else:
            measure_upsampling(network, images, layers)


def measure_upsampling(network: nn.Module, images: Tensor, layers: list[Upsampling]) -> None:
    """Give every layer the algorithm whose forward and backward pass takes less time on what it gets of `images`."""
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
    """What each layer is given; batch norm's statistics are left as they are."""
    inputs: dict[Upsampling, Tensor] = {}

    def keep(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        assert isinstance(layer, Upsampling)
        inputs[layer] = given[0].detach()

    hooks = [layer.register_forward_pre_hook(keep) for layer in layers]
    modes = {module: module.training for module in network.modules()}  # frozen batch norm is not as the rest
    network.eval()
    with torch.no_grad():
        network.forward(images)
    for module, mode in modes.items():
        module.training = mode
    for hook in hooks:
        hook.remove()
    return inputs


def _seconds(layer: Upsampling, scores: Tensor) -> float:
    """Median over `REPETITIONS` of a forward and backward pass."""
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
    """Everything that was chosen, in a line: `fp32, channels last, fused adamw, transposed upsampling`."""
    on_gpu = device.type == "cuda"
    layers = [module for module in network.modules() if isinstance(module, Upsampling)]
    algorithms = dict.fromkeys(layer.chosen(device).value for layer in layers)
    layout = "last" if memory_layout(config) is torch.channels_last else "first"
    parts = [chosen_precision(config, on_gpu=on_gpu).value, f"channels {layout}", f"fused {config.optim.name}"]
    if algorithms:
        parts.append(f"{' and '.join(algorithms)} upsampling")
    if config.compile:
        parts.append("compiled")
    if on_gpu:
        parts.append("deterministic algorithms" if config.deterministic else "cuDNN tuned")
    if config.trainer.accumulate > 1:
        parts.append(f"each step in {config.trainer.accumulate} parts")
    return ", ".join(parts)

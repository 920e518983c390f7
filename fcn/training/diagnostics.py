"""How a training fares, beside its scores: the drift of the upsampling, the norm of the gradient, memory."""

from __future__ import annotations

import math
import sys

import torch
from torch import Tensor, nn

from fcn.models.upsampling import Upsampling, bilinear_kernel


def upsampling_layers(model: nn.Module) -> dict[str, Upsampling]:
    """The transposed convolutions of an FCN by their names, coarse to fine; none in torchvision's networks."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Upsampling)}


def upsampling_drift(model: nn.Module) -> dict[str, float]:
    """How far each transposed convolution lies from bilinear interpolation: ||W - B|| / ||B||, Frobenius norms.

    0 as bilinear initialisation leaves it; about 1 after Xavier's, whose weights are small.

    Returns:
        `upsampling/drift/<layer>` for every layer of `upsampling_layers`.
    """
    drifts = {}
    for name, layer in upsampling_layers(model).items():
        weight = layer.weight.detach().cpu().double()
        bilinear = bilinear_kernel(weight.shape[0], weight.shape[-1]).double()
        drifts[f"upsampling/drift/{name}"] = ((weight - bilinear).norm() / bilinear.norm()).item()
    return drifts


def gradient_norm(module: nn.Module) -> Tensor:
    """L2 norm of the gradient over all parameters that have one, a scalar on their device, which is not waited for.

    Before the step of the optimiser this is the step's gradient: over the whole batch, and before weight decay.
    """
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    return torch.nn.utils.get_total_norm(gradients)


def peak_memory_mib(device: torch.device) -> float:
    """Peak memory of this process in MiB: what torch held on the GPU, or the resident set if `device` is a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if sys.platform == "win32":
        return math.nan  # has no getrusage
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # bytes there, KiB elsewhere

"""Quantities other than scores that are monitored during training: upsampling drift, gradient norm, peak memory."""

from __future__ import annotations

import math
import sys

import torch
from torch import Tensor, nn

from fcn.models.upsampling import Upsampling, bilinear_kernel


def upsampling_layers(model: nn.Module) -> dict[str, Upsampling]:
    """Return the transposed convolutions of an FCN by name, coarse to fine; torchvision's networks have none."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Upsampling)}


def upsampling_drift(model: nn.Module) -> dict[str, float]:
    """Return the distance of each transposed convolution from bilinear interpolation: ||W - B|| / ||B||, Frobenius.

    It is 0 after bilinear initialisation, and about 1 after Xavier initialisation, whose weights are small.

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
    """Return the L2 norm of the gradient over all parameters that have one, a scalar on their device.

    Called before the optimiser steps, this is the gradient of the whole batch, without weight decay.
    """
    gradients = [parameter.grad for parameter in module.parameters() if parameter.grad is not None]
    return torch.nn.utils.get_total_norm(gradients)


def peak_memory_mib(device: torch.device) -> float:
    """Return the peak memory of this process in MiB: allocated by torch on a GPU, or the resident set on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if sys.platform == "win32":
        return math.nan  # has no getrusage
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # bytes there, KiB elsewhere

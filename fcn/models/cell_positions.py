"""Positions of the cells of a backbone's feature maps, measured by symmetry."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fcn.models.timm_architectures import Architecture

POSITIONAL = ("pos_embed", "pos_emb", "rel_pos", "relative_position", "rope")
"""Parts of the names of parameters that depend on the position in the image or in a window."""

TOLERANCE = 1e-3
"""Largest rounding error of a symmetric map, relative to the effect of the image; asymmetric maps differ by about 1."""


@functools.cache
def measure_offsets(architecture: Architecture) -> tuple[float | None, ...]:
    """Return the pixel at which cell 0 of each map is centred; None for maps whose cells have no exact centre.

    A network with symmetric kernels commutes with turning the image by 180 degrees if its cells lie symmetrically in
    the image. The side W at which it does gives the position of the first of n cells: the centre of all cells,
    stride * (n - 1) / 2 + offset, is then that of the image, (W - 1) / 2. There is no such side if branches with
    different centres are combined, as by the average pooling in the shortcuts of ResNet-D.

    The result depends on the architecture alone. Torch's global generator keeps its state.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)  # torch.manual_seed would also seed GPUs
        network = architecture.create()
        architecture.prune(network)
        _make_symmetric(network)
        offsets: list[float | None] = [None] * len(architecture.strides)
        for side in _sides(architecture):
            images = torch.randn(2, 3, side, side, dtype=torch.float64)
            maps, turned = (architecture.maps(network, each) for each in (images, images.flip(-1, -2)))
            for number, (features, other, stride) in enumerate(zip(maps, turned, architecture.strides, strict=True)):
                if offsets[number] is None and _is_turned(features, other):
                    offsets[number] = (side - 1 - stride * (features.shape[-1] - 1)) / 2
    return tuple(offsets)


def _sides(architecture: Architecture) -> list[int]:
    """Return sides of images that consist of whole cells, or reach from the centre of one cell to that of another."""
    side = max(64, 2 * architecture.strides[-1])
    side += architecture.padding(side)
    return [side, side + 1] if architecture.multiple == 1 else [side]


def _make_symmetric(network: nn.Module) -> None:
    """Make all kernels equal to themselves turned by 180 degrees, and remove positional parameters.

    Batch norm normalises by the statistics of the images, so that the effect of the image does not vanish with depth.
    """
    network.double().eval().requires_grad_(False)
    for module in network.modules():
        module.train(isinstance(module, _BatchNorm))
    for name, parameter in network.named_parameters():
        if any(part in name for part in POSITIONAL):
            parameter.zero_()
        elif not parameter.any():  # layers that are initialised to zero would hide a branch
            parameter.add_(0.05 + 0.1 * torch.rand_like(parameter))
        if parameter.ndim == 4:
            parameter.copy_((parameter + parameter.flip(2, 3)) / 2)


def _is_turned(features: Tensor, other: Tensor) -> bool:
    """Whether `other` is `features` turned by 180 degrees, and not merely independent of the image."""
    difference, change = (features.flip(-1, -2) - other).abs().max(), (features - other).abs().max()
    return bool(difference < TOLERANCE * change)

"""Positions of the cells of a backbone's feature maps, measured by symmetry."""

from __future__ import annotations

import functools

import torch
from torch import Tensor, nn

from fcn.models.timm_architectures import Architecture

POSITIONAL = ("pos_embed", "pos_emb", "rel_pos", "relative_position", "rope")
"""Parts of the names of parameters that depend on the position in the image or in a window."""

TOLERANCE = 1e-6


@functools.cache
def measure_offsets(architecture: Architecture) -> tuple[float | None, ...]:
    """Return the pixel at which cell 0 of each map is centred; None for maps whose cells have no exact centre.

    If all kernels are constant in space, a network commutes with turning the image by 180 degrees, provided that the
    cells lie symmetrically in the image. The size at which it does gives the position of the first cell: with n cells
    in an image of side W, stride * (n - 1) / 2 + offset = (W - 1) / 2. Cells without such a size combine branches with
    different centres, such as the average pooling of ResNet-D.

    The result depends on the architecture alone. Torch's global generator keeps its state.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = architecture.create()
        architecture.prune(network)
        _make_constant_in_space(network)
        offsets: list[float | None] = [None] * len(architecture.strides)
        for side in _sides(architecture):
            images = torch.randn(1, 3, side, side, dtype=torch.float64)
            maps, turned = (architecture.maps(network, each) for each in (images, images.flip(-1, -2)))
            for number, (features, other, stride) in enumerate(zip(maps, turned, architecture.strides, strict=True)):
                if offsets[number] is None and _is_turned(features, other):
                    offsets[number] = (side - 1 - stride * (features.shape[-1] - 1)) / 2
    return tuple(offsets)


def _sides(architecture: Architecture) -> list[int]:
    """Return sides of images that consist of whole cells, or reach from the centre of one cell to that of another."""
    side = -(-2 * architecture.strides[-1] // architecture.multiple) * architecture.multiple + architecture.remainder
    return [side, side + 1] if architecture.multiple == 1 else [side]


def _make_constant_in_space(network: nn.Module) -> None:
    """Average all kernels over space and remove positional parameters."""
    network.double().eval().requires_grad_(False)
    for name, parameter in network.named_parameters():
        if any(part in name for part in POSITIONAL):
            parameter.zero_()
        elif not parameter.any():  # layers that are initialised to zero would hide a branch
            parameter.add_(0.05 + 0.1 * torch.rand_like(parameter))
        if parameter.ndim == 4:
            parameter.copy_(parameter.mean(dim=(2, 3), keepdim=True).expand_as(parameter))


def _is_turned(features: Tensor, other: Tensor) -> bool:
    """Whether `other` is `features` turned by 180 degrees, and not merely independent of the image."""
    difference, change = (features.flip(-1, -2) - other).abs().max(), (features - other).abs().max()
    return bool(difference < TOLERANCE * change)

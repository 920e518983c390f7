"""A transposed convolution of stride f and kernel 2f as matrix products and a pixel shuffle (Shi et al. 2016).

Every output cell is a sum over 2 x 2 input cells, whose weights depend on the position of the output cell in its block
of f x f cells. The outputs of one position are therefore a product of two matrices: the neighbourhoods of all input
cells, and the weights of that position. Positions whose block begins in the same input cell share a product, which
leaves 2 x 2 products. `conv2d` and `pixel_shuffle` are not used because cropping their result would copy the logits
twice, and twice more in the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Phase = tuple[slice, slice, int]


@dataclass(frozen=True)
class Geometry:
    """Stride and padding of the layer on both axes, and the size of its output."""

    factor: int
    padding: int
    height: int
    width: int

    def blocks(self) -> tuple[int, int]:
        """Return the number of rows and columns of blocks that cover the output."""
        return -(-self.height // self.factor), -(-self.width // self.factor)

    def phases(self) -> Iterator[Phase]:
        """Yield positions in a block, the kernel cells of their nearer input cell, and the first input cell."""
        cells, within = divmod(self.padding, self.factor)
        split = self.factor - within
        yield slice(0, split), slice(within, self.factor), cells
        if within:
            yield slice(split, self.factor), slice(0, within), cells + 1

    def pairs(self) -> Iterator[tuple[Phase, Phase]]:
        """Yield all pairs of a vertical and a horizontal phase."""
        return ((down, across) for down in self.phases() for across in self.phases())


class SubpixelFunction(torch.autograd.Function):
    """Forward and backward pass of `subpixel`."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, weight: Tensor, bias: Tensor, geometry: Geometry) -> Tensor:
        rows, columns = geometry.blocks()
        size, channels, factor = len(scores), weight.shape[1], geometry.factor
        cells, kernel = _neighbourhoods(scores, geometry), _weights_by_cell(weight, factor)
        logits = scores.new_empty(size, channels, rows, factor, columns, factor)
        for down, across in geometry.pairs():
            product = _cells_matrix(cells, down, across, geometry) @ _kernel_matrix(kernel, down, across)
            positions = (down[0].stop - down[0].start, across[0].stop - across[0].start)
            blocks = product.view(size, rows, columns, channels, *positions).permute(0, 3, 1, 4, 2, 5)
            logits[:, :, :, down[0], :, across[0]] = blocks
        logits += bias.view(1, -1, 1, 1, 1, 1)
        ctx.save_for_backward(cells, kernel)
        ctx.geometry, ctx.shapes = geometry, (scores.shape, weight.shape)
        return logits.view(size, channels, rows * factor, columns * factor)[..., : geometry.height, : geometry.width]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        (cells, kernel), geometry = ctx.saved_tensors, ctx.geometry
        (size, inputs, _, _), (_, channels, _, kernel_size) = ctx.shapes
        rows, columns = geometry.blocks()
        factor = geometry.factor
        missing = (0, columns * factor - geometry.width, 0, rows * factor - geometry.height)
        padded = F.pad(gradient, missing) if any(missing) else gradient.contiguous()
        blocks = padded.view(size, channels, rows, factor, columns, factor)
        cells_gradient, kernel_gradient = torch.zeros_like(cells), torch.zeros_like(kernel)
        for down, across in geometry.pairs():
            part = blocks[:, :, :, down[0], :, across[0]].permute(0, 2, 4, 1, 3, 5).reshape(size * rows * columns, -1)
            target = cells_gradient[:, down[2] : down[2] + rows, across[2] : across[2] + columns]
            target += (part @ _kernel_matrix(kernel, down, across).T).view(target.shape)
            product = _cells_matrix(cells, down, across, geometry).T @ part
            target = kernel_gradient[:, :, down[1], across[1]]
            target += product.view(target.shape)
        weight = kernel_gradient.view(2, 2, inputs, channels, factor, factor).permute(2, 3, 0, 4, 1, 5).flip(2, 4)
        weight = weight.reshape(inputs, channels, 2 * factor, 2 * factor)[..., :kernel_size, :kernel_size]
        return _scatter(cells_gradient, ctx.shapes[0]), weight, gradient.sum(dim=(0, 2, 3)), None


def subpixel(scores: Tensor, weight: Tensor, bias: Tensor, geometry: Geometry) -> Tensor:
    """Compute `conv_transpose2d`, up to the order of summation.

    Args:
        scores: float [N, C, H, W].
        weight: float [C, D, k, k], with k <= 2f.
        bias: float [D].
        geometry: factor f, padding, and size of the output.

    Returns:
        float [N, D, height, width].
    """
    device = scores.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        scores, weight, bias = scores.to(dtype), weight.to(dtype), bias.to(dtype)
    logits: Tensor = SubpixelFunction.apply(scores, weight, bias, geometry)
    return logits


def _neighbourhoods(scores: Tensor, geometry: Geometry) -> Tensor:
    """Return each cell with its neighbours above and to the left, [N, H', W', 4C]; the map is padded with zeros."""
    height, width = (count + geometry.padding // geometry.factor + 1 for count in geometry.blocks())
    below, right = max(1, height - scores.shape[2]), max(1, width - scores.shape[3])
    padded = F.pad(scores, (1, right, 1, below)).permute(0, 2, 3, 1)
    windows = [padded[:, i : i + height, j : j + width] for i in (0, 1) for j in (0, 1)]
    return torch.cat(windows, dim=3)


def _scatter(cells: Tensor, shape: torch.Size) -> Tensor:
    """Return the transpose of `_neighbourhoods`: the sum over all neighbourhoods that contain a cell."""
    size, channels, height, width = shape
    # The output may end before the last cells, whose gradient is zero.
    sides = (max(cells.shape[1], height) + 1, max(cells.shape[2], width) + 1)
    padded = cells.new_zeros(size, *sides, channels)
    for number, part in enumerate(torch.split(cells, channels, dim=3)):
        i, j = divmod(number, 2)
        padded[:, i : i + cells.shape[1], j : j + cells.shape[2]] += part
    return padded[:, 1 : 1 + height, 1 : 1 + width].permute(0, 3, 1, 2)


def _weights_by_cell(weight: Tensor, factor: int) -> Tensor:
    """Return the weights by input cell, as in `_neighbourhoods`, and by position in a block, [4C, D, f, f]."""
    spare = 2 * factor - weight.shape[-1]
    kernel = F.pad(weight, (0, spare, 0, spare)).view(*weight.shape[:2], 2, factor, 2, factor).flip(2, 4)
    return kernel.permute(2, 4, 0, 1, 3, 5).reshape(4 * weight.shape[0], weight.shape[1], factor, factor)


def _cells_matrix(cells: Tensor, down: Phase, across: Phase, geometry: Geometry) -> Tensor:
    rows, columns = geometry.blocks()
    part = cells[:, down[2] : down[2] + rows, across[2] : across[2] + columns]
    return part.reshape(-1, cells.shape[3])


def _kernel_matrix(kernel: Tensor, down: Phase, across: Phase) -> Tensor:
    return kernel[:, :, down[1], across[1]].reshape(len(kernel), -1)

"""The transposed convolution that brings a coarse map to a finer grid, its geometry, and its two initialisations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcn.config import ModelConfig
from fcn.config.choices import Algorithm, Border, Init
from fcn.models.subpixel import Geometry, subpixel

LARGE_FACTOR = 8
"""From this factor on, the sub-pixel form is faster on a CPU, see docs/performance.md."""


@dataclass(frozen=True)
class Grid:
    """Where the cells of a map lie: cell i is centred at pixel `stride * i + offset` of the image, on both axes."""

    stride: int
    offset: float


PIXELS = Grid(1, 0.0)


def bilinear_kernel(channels: int, kernel_size: int) -> Tensor:
    """Weight of a transposed convolution that interpolates every channel bilinearly, by itself.

    The same kernel stands on the class diagonal, the rest is zero.

    Returns:
        float32 [channels, channels, kernel_size, kernel_size].

    Source: Long, Shelhamer, Darrell 2015, section 3.3; the FCN chapter of "Dive into Deep Learning".
    """
    factor = (kernel_size + 1) // 2
    centre = factor - 1 if kernel_size % 2 else factor - 0.5
    tent = 1 - (torch.arange(kernel_size) - centre).abs() / factor
    weight = torch.zeros(channels, channels, kernel_size, kernel_size)
    weight[range(channels), range(channels)] = torch.outer(tent, tent)
    return weight


class Upsampling(nn.ConvTranspose2d):
    """Transposed convolution from one grid to a finer one, placed by where the cells of both lie.

    With factor f from `source` to `target`, the kernel's centre falls on the cell that it spreads. That takes
    a kernel of 2f where the centres of source cells lie half-way between target cells, as in VGG, and of
    2f - 1 where they lie on them, as in a ResNet. For a stride of 32 and cells taken to be centred at 15.5
    this is the chapter's layer, kernel 64 and padding 16; for VGG padded by 100 pixels it gives the offsets of
    the papers' crop layers. The layer has a bias, as the chapter's has; it starts at zero, so that bilinear
    initialisation is interpolation and nothing else.

    Args:
        channels: classes, both in and out.
        source: grid of the input.
        target: grid of the output; its stride divides the source's.
        config: initialisation (bilinear, or Glorot uniform), whether weight and bias train, and what lies round the
            map: zero, so that the outermost half cell fades, or its outermost cells again.

    Attributes:
        first: cell of `target` at which the output begins; 0 unless the target's map reaches further out.
        algorithm: how it is computed, see `forward`; no part of the weights.
    """

    def __init__(self, channels: int, *, source: Grid, target: Grid, config: ModelConfig) -> None:
        factor = source.stride // target.stride
        distance = (source.offset - target.offset) / target.stride  # of the first centres, in cells of the target
        assert source.stride == factor * target.stride, (source, target)
        assert 2 * distance == round(2 * distance), (source, target)
        margin = 1 if config.border is Border.replicate else 0  # cells added to each side
        kernel_size = 2 * factor - int(distance.is_integer())
        cut = int((kernel_size - 1) / 2 - distance)  # cells before the target's first one
        padding = max(0, cut + factor * margin)
        missing = factor + 2 * cut - kernel_size  # to `factor` cells of the target for each of the source
        super().__init__(
            channels,
            channels,
            kernel_size,
            stride=factor,
            padding=padding,
            output_padding=missing if 0 <= missing < factor else 0,
        )
        self.first = padding - cut - factor * margin
        self.algorithm = Algorithm.auto
        self._margin = margin
        assert self.bias is not None
        with torch.no_grad():
            self.bias.zero_()
            if config.init is Init.bilinear:
                self.weight.copy_(bilinear_kernel(channels, kernel_size))
            else:
                nn.init.xavier_uniform_(self.weight)
        self.requires_grad_(config.upsample_trainable)

    def forward(self, scores: Tensor) -> Tensor:  # type: ignore[override]
        """Scores on the grid of the target, from its cell `first` on.

        `algorithm` decides how, and changes no more than rounding: `transposed` is torch's transposed convolution,
        `subpixel` a 2 x 2 convolution and a pixel shuffle, see `fcn.models.subpixel`, `auto` whichever is faster.

        Args:
            scores: float [N, channels, H, W].

        Returns:
            float [N, channels, h, w]: h = factor * H and w = factor * W, or somewhat fewer or more where the source is
            padded beyond the image, as VGG's maps are.
        """
        if self._margin:
            scores = F.pad(scores, (1, 1, 1, 1), mode="replicate")
        if self.chosen(scores.device) is Algorithm.transposed:
            return super().forward(scores)
        return self._subpixel(scores)

    def chosen(self, device: torch.device) -> Algorithm:
        """The algorithm that is used on a device: `algorithm`, or what was found to be faster on such devices."""
        if self.algorithm is not Algorithm.auto:
            return self.algorithm
        # On a GPU it is measured where a training begins, see fcn.training.compute.
        suits = device.type == "cpu" and self.stride[0] >= LARGE_FACTOR
        return Algorithm.subpixel if suits else Algorithm.transposed

    def _subpixel(self, scores: Tensor) -> Tensor:
        (factor, _), kernel_size, padding = self.stride, self.kernel_size[0], int(self.padding[0])
        sides = (
            (side - 1) * factor + kernel_size - 2 * padding + int(self.output_padding[0]) for side in scores.shape[2:]
        )
        assert self.bias is not None
        return subpixel(scores, self.weight, self.bias, Geometry(factor, padding, *sides))

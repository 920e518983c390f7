"""The transposed convolution that upsamples a coarse map to a finer grid, its geometry, and its initialisations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fcn.config.choices import Algorithm, Border, Init
from fcn.models.model_options import FcnConfig
from fcn.models.subpixel import Geometry, subpixel

LARGE_FACTOR = 8
"""Smallest upsampling factor for which the sub-pixel form is faster on a CPU, see docs/performance.md."""


@dataclass(frozen=True)
class Grid:
    """Positions of the cells of a map: on both axes, cell i is centred at pixel `stride * i + offset` of the image.

    The offset is None if it is not known.
    """

    stride: int
    offset: float | None


PIXELS = Grid(1, 0.0)


def bilinear_kernel(channels: int, kernel_size: int) -> Tensor:
    """Return the weight of a transposed convolution that interpolates every channel separately.

    The class diagonal holds the bilinear kernel; all other weights are zero.

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
    """Transposed convolution from one grid to a finer one, placed according to the positions of their cells.

    The centre of the kernel falls on the cell that it spreads. With a factor of f, this takes a kernel of size 2f if
    the source cells are centred halfway between target cells, as in VGG, and 2f - 1 if they are centred on target
    cells, as in a ResNet. A stride of 32 and cells centred at 15.5 give the layer of d2l (kernel 64, padding 16); VGG
    with a padding of 100 pixels gives the offsets of the papers' crop layers. The layer has a bias, as in d2l, which
    starts at zero, so that bilinear initialisation gives exact interpolation.

    Args:
        channels: number of classes, which is the number of input and output channels.
        source: grid of the input.
        target: grid of the output; its stride must divide that of the source.
        config: the group `model`: initialisation of the weight, whether the layer is trained, and the padding of the
            map (zero, so that logits fade within the outermost half cell, or replicate).

    Attributes:
        first: cell of `target` at which the output begins; 0 unless the target extends beyond the source.
        algorithm: algorithm that computes the output, see `forward`.
    """

    def __init__(self, channels: int, *, source: Grid, target: Grid, config: FcnConfig) -> None:
        assert source.offset is not None, source
        assert target.offset is not None, target
        factor = source.stride // target.stride
        distance = (source.offset - target.offset) / target.stride  # between the first centres, in cells of the target
        assert source.stride == factor * target.stride, (source, target)
        assert 2 * distance == round(2 * distance), (source, target)
        margin = 1 if config.border is Border.replicate else 0  # cells of padding on each side
        kernel_size = 2 * factor - int(distance.is_integer())
        cut = int((kernel_size - 1) / 2 - distance)  # cells before the first one of the target
        padding = max(0, cut + factor * margin)
        missing = factor + 2 * cut - kernel_size  # up to `factor` target cells per source cell
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

    def forward(self, scores: Tensor, limit: torch.Size | None = None) -> Tensor:  # type: ignore[override]
        """Return the scores on the target grid, from its cell `first` on.

        `algorithm` affects the result by rounding only: `transposed` is torch's transposed convolution, `subpixel` a
        2 x 2 convolution with a pixel shuffle (see `fcn.models.subpixel`), `auto` the faster one.

        Args:
            scores: float [N, channels, H, W].
            limit: largest height and width of the output, which is truncated at the bottom and on the right.

        Returns:
            float [N, channels, h, w]: h = factor * H and w = factor * W, or slightly different sizes if the source is
            padded beyond the image, as for VGG; at most `limit`.
        """
        if self._margin:
            scores = F.pad(scores, (1, 1, 1, 1), mode="replicate")
        if self.chosen(scores.device) is Algorithm.transposed:
            scores = super().forward(scores)
            return scores if limit is None else scores[..., : limit[0], : limit[1]]
        return self._subpixel(scores, limit)

    def chosen(self, device: torch.device) -> Algorithm:
        """Return the algorithm used on a device. On a GPU, `fcn.training.compute` sets `algorithm` by measurement."""
        if self.algorithm is not Algorithm.auto:
            return self.algorithm
        is_subpixel_faster = device.type == "cpu" and self.stride[0] >= LARGE_FACTOR
        return Algorithm.subpixel if is_subpixel_faster else Algorithm.transposed

    def _subpixel(self, scores: Tensor, limit: torch.Size | None) -> Tensor:
        (factor, _), kernel_size, padding = self.stride, self.kernel_size[0], int(self.padding[0])
        added = kernel_size - 2 * padding + int(self.output_padding[0])
        height, width = ((side - 1) * factor + added for side in scores.shape[2:])
        if limit is not None:  # truncated rows and columns are not computed
            height, width = min(height, limit[0]), min(width, limit[1])
        assert self.bias is not None
        return subpixel(scores, self.weight, self.bias, Geometry(factor, padding, height, width))

"""The transposed convolution that brings a coarse map to a finer grid, and its two initialisations."""

import torch
from torch import Tensor, nn

from fcn.config import Init


def bilinear_kernel(channels: int, kernel_size: int) -> Tensor:
    """Weight of a transposed convolution that interpolates every channel bilinearly, by itself.

    The same kernel stands on the class diagonal, the rest is zero. A transposed convolution of even stride s
    with kernel_size 2s and padding s/2 then interpolates between cells centred at pixel s * i + (s - 1) / 2.
    Outside the map counts as zero, so that the outermost s/2 pixels fade.

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


def upsampling(channels: int, *, stride: int, init: Init, trainable: bool) -> nn.ConvTranspose2d:
    """Transposed convolution that makes a map `stride` times as high and wide.

    Kernel 2 * stride and padding stride // 2 as in the chapter (64 and 16 for stride 32). The chapter's layer
    has a bias too; here it starts at zero, so that bilinear initialisation is interpolation and nothing else.

    Args:
        channels: classes, both in and out.
        stride: even, in cells of the output.
        init: bilinear, or xavier (Glorot uniform).
        trainable: False freezes weight and bias.
    """
    layer = nn.ConvTranspose2d(channels, channels, kernel_size=2 * stride, stride=stride, padding=stride // 2)
    assert layer.bias is not None
    with torch.no_grad():
        layer.bias.zero_()
        if init is Init.bilinear:
            layer.weight.copy_(bilinear_kernel(channels, 2 * stride))
        else:
            nn.init.xavier_uniform_(layer.weight)
    return layer.requires_grad_(trainable)

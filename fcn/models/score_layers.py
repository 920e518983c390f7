"""Layers that compute the scores of a feature map: a 1x1 convolution, alone or after further layers."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from fcn.config.choices import ScoreInit

NORMAL_STD = 0.01
"""Standard deviation of `ScoreInit.normal`, as in mmsegmentation's decode heads."""


def score_layer(channels: int, num_classes: int, *, init: ScoreInit) -> nn.Conv2d:
    """Return a 1x1 convolution to the classes with zero bias.

    Its weight is Glorot uniform, as in d2l, normal with a standard deviation of `NORMAL_STD`, or zero.
    """
    layer = nn.Conv2d(channels, num_classes, kernel_size=1)
    assert layer.bias is not None
    if init is ScoreInit.zero:
        nn.init.zeros_(layer.weight)
    elif init is ScoreInit.normal:
        nn.init.normal_(layer.weight, std=NORMAL_STD)
    else:
        nn.init.xavier_uniform_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def linear_score_layers(channels: int, num_classes: int, *, init: ScoreInit) -> nn.Sequential:
    """Return batch norm and a score layer: the head of DINOv2's linear evaluation (`BNHead` in its repository)."""
    return nn.Sequential(
        OrderedDict(norm=nn.BatchNorm2d(channels), score=score_layer(channels, num_classes, init=init))
    )


def convolutional_score_layers(
    source_channels: int,
    num_classes: int,
    *,
    channels: int,
    num_convs: int,
    concat_input: bool,
    dropout: float,
    init: ScoreInit,
) -> nn.Sequential:
    """Return 3x3 convolutions, dropout and a score layer: `FCNHead` of mmsegmentation.

    Args:
        source_channels: channels of the feature map.
        num_classes: number of classes.
        channels: channels of each convolution.
        num_convs: number of convolutions, each followed by batch norm and ReLU.
        concat_input: whether one more convolution follows, of the feature map and the output of the others.
        dropout: probability that a channel is zero in training.
        init: initialisation of the score layer.
    """
    sources = [source_channels] + [channels] * (num_convs - 1)
    convs: nn.Module = nn.Sequential(*(_convolution(source, channels) for source in sources))
    if concat_input:
        convs = ConcatInput(convs, _convolution(source_channels + channels, channels))
    score = score_layer(channels, num_classes, init=init)
    return nn.Sequential(OrderedDict(convs=convs, dropout=nn.Dropout2d(dropout), score=score))


class ConcatInput(nn.Module):
    """Layers whose input is concatenated with their output, before a last layer.

    Args:
        layers: layers that keep the height and the width.
        last: layer of the concatenated channels, those of the input first.
    """

    def __init__(self, layers: nn.Module, last: nn.Module) -> None:
        super().__init__()
        self.layers = layers
        self.last = last

    def forward(self, features: Tensor) -> Tensor:
        """Return the output of the last layer for a feature map, float [N, C, H, W]."""
        joined: Tensor = self.last(torch.cat([features, self.layers(features)], dim=1))
        return joined


def _convolution(source_channels: int, channels: int) -> nn.Sequential:
    """Return a 3x3 convolution with batch norm and ReLU, initialised as mmcv's ConvModule (He et al. 2015, fan out)."""
    conv = nn.Conv2d(source_channels, channels, kernel_size=3, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(channels), activation=nn.ReLU(inplace=True)))

"""Shared by tests of the networks: backbones by name, on the meta device, with given maps, and as pure geometry."""

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.convnext import CNBlock
from torchvision.ops import SqueezeExcitation

from fcn.config import BackboneConfig, Config, ModelConfig, option
from fcn.config.choices import Alignment, Init
from fcn.models.backbone_options import TORCHVISION_BACKBONES
from fcn.models.backbones import Backbone, build_backbone
from fcn.models.upsampling import Grid

HEADS = ("fcn32s", "fcn16s", "fcn8s")
DILATED = [
    ("resnet18", 8), ("resnet18", 16), ("resnet50", 8),
    ("mobilenet_v3_large", 8), ("mobilenet_v3_large", 16),
]  # fmt: skip
"""Dilated backbones with basic blocks, bottlenecks, and depthwise convolutions of kernel size 3 and 5."""

every_backbone = pytest.mark.parametrize("name", TORCHVISION_BACKBONES, ids=str)
every_init = pytest.mark.parametrize("init", list(Init), ids=str)
every_head = pytest.mark.parametrize("head", HEADS, ids=str)
every_alignment = pytest.mark.parametrize("alignment", list(Alignment), ids=str)


def build(name: str = "squeezenet1_0", weights: str = "none", output_stride: int | None = None) -> Backbone:
    return build_backbone(option("backbone", name, weights=weights, output_stride=output_stride))


def build_model(model: ModelConfig, backbone: BackboneConfig, *, num_classes: int) -> Any:
    """Build a network for a number of classes."""
    data = option("data", "voc", classes=[f"class {number}" for number in range(num_classes)])
    return model.build(Config(name="x", data=data, backbone=backbone, model=model))


@functools.cache
def build_on_meta(name: str, output_stride: int | None = None) -> Backbone:
    """Build a backbone that computes shapes only, which is fast for any size."""
    with torch.device("meta"):
        return build(name, output_stride=output_stride).eval()


@functools.cache
def map_sizes(name: str, output_stride: int | None, height: int, width: int) -> list[tuple[int, int]]:
    """Return the height and width of the maps of an image, from fine to coarse."""
    maps = build_on_meta(name, output_stride)(torch.empty(1, 3, height, width, device="meta"))
    return [(features.shape[-2], features.shape[-1]) for features in maps]


class Maps(nn.Module):
    """Backbone with fixed maps for any image, to test a head alone."""

    def __init__(self, maps: list[Tensor], grids: tuple[Grid, ...]) -> None:
        super().__init__()
        self.maps, self.grids = maps, grids
        self.channels = tuple(features.shape[1] for features in maps)

    def forward(self, images: Tensor) -> list[Tensor]:
        return list(self.maps)


class Window(nn.Module):
    """Geometry of a convolution or pool: the mean over its window and over the channels."""

    def __init__(self, layer: nn.Conv2d | nn.MaxPool2d) -> None:
        super().__init__()
        self.layer = layer
        self.kernel_size, self.stride, self.padding, self.dilation = (
            (side, side) if isinstance(side, int) else side
            for side in (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
        )

    def forward(self, features: Tensor) -> Tensor:
        (rows, columns), (down, right) = self.kernel_size, self.padding
        features = F.pad(features.mean(dim=1, keepdim=True), (right, right, down, down))
        if isinstance(self.layer, nn.MaxPool2d):
            return F.avg_pool2d(features, self.kernel_size, self.stride, ceil_mode=self.layer.ceil_mode)
        mean = torch.full((1, 1, rows, columns), 1 / (rows * columns), dtype=features.dtype)
        return F.conv2d(features, mean, stride=self.stride, dilation=self.dilation)


POINTWISE = (
    nn.BatchNorm2d, nn.LayerNorm, nn.ReLU, nn.Hardswish, nn.GELU, nn.Dropout, nn.Linear, SqueezeExcitation,
)  # fmt: skip
"""Layers without spatial extent, and squeeze-and-excitation, which treats all positions alike."""


def windows(name: str, output_stride: int | None = None) -> Backbone:
    """Build the geometry of a backbone. It is linear, so the gradient of a cell is its receptive field."""
    with torch.device("meta"):
        backbone = build(name, output_stride=output_stride).eval()
    for layer in list(backbone.modules()):
        if isinstance(layer, CNBlock):
            layer.layer_scale = nn.Parameter(torch.ones(1, 1, 1, dtype=torch.float64))
        for child_name, child in layer.named_children():
            if isinstance(child, nn.Conv2d | nn.MaxPool2d):
                layer.register_module(child_name, Window(child))
            elif isinstance(child, POINTWISE):
                layer.register_module(child_name, nn.Identity())
    return backbone

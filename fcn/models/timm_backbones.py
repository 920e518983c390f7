"""Backbones of timm: the feature maps of any architecture that `fcn.models.timm_architectures` describes."""

from __future__ import annotations

from types import MethodType
from typing import Any

import torch.nn.functional as F
from timm.layers.conv2d_same import Conv2dSame
from timm.models import group_parameters
from torch import Tensor, nn

from fcn.config import ConfigError
from fcn.models.cell_positions import measure_offsets
from fcn.models.timm_architectures import (
    Architecture,
    dilate,
    find_architecture,
    on_meta,
    output_strides,
    unused_parameters,
)
from fcn.models.timm_weights import fetch_published, in_own_names, published_weights
from fcn.models.upsampling import Grid
from fcn.models.weights import copy_weights, read_state_dict


class TimmBackbone(nn.Module):
    """The feature maps of a timm network: three of strides 8, 16 and 32, or one in a plain vision transformer.

    The parameters keep timm's names below `layers`, such as `layers.blocks.0.norm1.weight`.

    Args:
        architecture: description of the network.
        network: timm's network, which is pruned in place.

    Attributes:
        grids: strides of the maps, from fine to coarse; see `locate_cells` for their offsets.
        channels: number of channels of each map, from fine to coarse.
        mean: mean of the images for which the weights were trained, as published by timm, for RGB in [0, 1].
        std: standard deviation of these images.
    """

    def __init__(self, architecture: Architecture, network: nn.Module) -> None:
        super().__init__()
        self._architecture = architecture
        self.grids = tuple(Grid(stride, None) for stride in architecture.strides)
        self.channels = architecture.channels
        published = published_weights(architecture.name)
        self.mean, self.std = tuple(published.mean), tuple(published.std)
        architecture.prune(network)
        self.layers = network
        self.use_maps(len(self.grids))

    def use_maps(self, num_maps: int) -> None:
        """Freeze parameters that do not affect the `num_maps` coarsest maps."""
        self._num_maps = num_maps
        unused = unused_parameters(self._architecture, num_maps)
        for name, parameter in self.layers.named_parameters():
            if name in unused:
                parameter.requires_grad_(False)

    def locate_cells(self) -> tuple[Grid, ...]:
        """Return the grids with measured offsets.

        Raises:
            ConfigError: if the cells of a map that is used have no exact centre.
        """
        return located_grids(self._architecture, self._num_maps)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the feature maps, from fine to coarse.

        Args:
            images: float [N, 3, H, W], normalised, of any size from 1 x 1.

        Returns:
            One float [N, channels, h, w] for each grid, with h >= ceil(H / stride).
        """
        height, width = (self._architecture.padding(side) for side in images.shape[-2:])
        if self._architecture.multiple > 1:
            images = F.pad(images, (0, width, 0, height))
        return self._architecture.maps(self.layers, images)

    def fix_padding(self) -> None:
        """Replace TensorFlow's padding by that for odd sides, to which images are padded, for an export.

        timm computes it from the size of the input, about which the exporters cannot reason.
        """
        for layer in self.layers.modules():
            if isinstance(layer, Conv2dSame) and self._architecture.remainder:
                sides = zip(layer.kernel_size, layer.dilation, strict=True)
                layer.padding = tuple((side - 1) // 2 * step for side, step in sides)
                layer.forward = MethodType(nn.Conv2d.forward, layer)  # type: ignore[method-assign]

    def layer_ids(self) -> dict[str, int]:
        """Return the depth of each parameter by its name, for layer-wise learning rates; the first layer has depth 0.

        The layers are those of timm, such as the blocks of a vision transformer after its patch embedding.
        """
        network: Any = self.layers
        depths = group_parameters(network, network.group_matcher(coarse=False), reverse=True)
        return {f"layers.{name}": int(depth) for name, depth in depths.items()}


def configured_architecture(name: str, output_stride: int | None) -> Architecture:
    """Return the architecture `name` with the maps limited to `output_stride`.

    Raises:
        ConfigError: if timm has no such architecture, it does not fit the FCN heads, or it cannot be dilated.
    """
    architecture = find_architecture(name)
    if output_stride is None:
        return architecture
    dilated = dilate(architecture, output_stride) if output_stride in output_strides(architecture) else None
    if dilated is None:
        allowed = " or ".join(map(str, output_strides(architecture)))
        raise ConfigError(
            f"backbone.output_stride (={output_stride}) must be {allowed} on {name}; use null, or an architecture that "
            "timm can dilate, such as resnet50"
        )
    return dilated


def check_layers(architecture: Architecture) -> None:
    """Check that timm divides an architecture into layers, for `backbone.layer_decay`.

    Raises:
        ConfigError: if it does not.
    """
    with on_meta():
        has_layers = hasattr(architecture.create(), "group_matcher")
    if not has_layers:
        raise ConfigError(
            f"backbone.layer_decay must be null on {architecture.name}, which timm does not divide into layers"
        )


def located_grids(architecture: Architecture, num_maps: int) -> tuple[Grid, ...]:
    """Return the grids of all maps with measured offsets.

    Raises:
        ConfigError: if the cells of one of the `num_maps` coarsest maps have no exact centre.
    """
    offsets = measure_offsets(architecture)
    if None in offsets[-num_maps:]:
        raise ConfigError(
            f"model.alignment (=centered) must be chapter on {architecture.name}, whose cells have no exact centre; "
            "use model.alignment=chapter"
        )
    return tuple(Grid(stride, offset) for stride, offset in zip(architecture.strides, offsets, strict=True))


def build_timm_backbone(name: str, *, weights: str = "none", output_stride: int | None = None) -> TimmBackbone:
    """Build the backbone with the given weights.

    Args:
        name: architecture of timm, which may end in a dot and the tag of its weights.
        weights: `none` keeps the random initialisation; `imagenet` is the published weights, of the tag or of timm's
            default tag; any other value is the path of a state dict in timm's names, with or without classifier.
        output_stride: stride of the coarsest map; None: not reduced.

    Raises:
        ConfigError: as `configured_architecture`.
        WeightsError: if the weights cannot be loaded or do not fit.
    """
    architecture = configured_architecture(name, output_stride)
    network = architecture.create()
    if weights == "none":
        return TimmBackbone(architecture, network)
    key = f"backbone.weights (={weights})"
    state = fetch_published(name, key=key) if weights == "imagenet" else read_state_dict(weights)
    state = in_own_names(state, network, name)
    complete = set(network.state_dict())
    backbone = TimmBackbone(architecture, network)
    unused = complete - set(network.state_dict())
    copy_weights(network, state, key=key, network=name, library="timm", unused=unused)
    return backbone

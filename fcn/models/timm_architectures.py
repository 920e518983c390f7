"""What the architectures of timm offer as backbones: strides, channels, sizes of images, and dilation.

Everything is measured on the architecture itself, so that it also holds for architectures of later versions of timm.
The measurements run on torch's meta device, which computes shapes only, and leave the global generator untouched.
"""

from __future__ import annotations

import contextlib
import functools
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import timm
import torch
from timm.models import split_model_name_tag
from torch import Tensor, nn

from fcn.config import ConfigError, nearest
from fcn.models.timm_weights import published_weights

Options = tuple[tuple[str, bool], ...]

STRIDES = (8, 16, 32)
"""Strides of the feature maps that FCN-8s uses."""

SIZE_OPTIONS: tuple[Options, ...] = ((), (("dynamic_img_size", True),), (("strict_img_size", False),))
"""Arguments of timm with which an architecture accepts other sizes than that of its weights."""

SIZES = ((1, 1), (33, 47), (2, 96))
"""Heights and widths that an architecture must accept if images are not padded."""


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """An architecture of timm as a backbone. Maps are listed from fine to coarse.

    Attributes:
        name: name in timm, with the tag of the weights after a dot if there is one.
        output_stride: stride to which the maps are limited by dilation; None: not dilated.
        indices: positions of the maps among timm's intermediate features.
        strides: distance between neighbouring cells of each map, pixels.
        channels: number of channels of each map.
        multiple: images are padded with zeros at the bottom and right to a multiple of this size, plus `remainder`.
        remainder: 1 for TensorFlow's padding, which places the cells of even and odd images differently.
        options: arguments of `timm.create_model`.
        smallest_batch: 2 if batch norm follows global pooling, which cannot be trained with a single image.
    """

    name: str
    output_stride: int | None = None
    indices: tuple[int, ...]
    strides: tuple[int, ...]
    channels: tuple[int, ...] = ()
    multiple: int = 1
    remainder: int = 0
    options: Options = ()
    smallest_batch: int = 1

    @property
    def is_single(self) -> bool:
        """Whether there is a single map, as in a plain vision transformer."""
        return len(self.indices) == 1

    def padding(self, side: int) -> int:
        """Return the number of zeros by which an image of a height or width of `side` is padded."""
        # Not `-side % multiple`: torch.export cannot reason about the remainder of a negative number.
        return (side - self.remainder + self.multiple - 1) // self.multiple * self.multiple + self.remainder - side

    def create(self) -> nn.Module:
        """Return timm's complete network, with classifier, initialised from torch's global generator."""
        dilation = {} if self.output_stride is None else {"output_stride": self.output_stride}
        return _create(self.name, **dict(self.options), **dilation)

    def prune(self, network: Any) -> None:
        """Remove the classifier and the layers after the last map."""
        network.prune_intermediate_layers(list(self.indices), prune_norm=not self.is_single, prune_head=True)

    def maps(self, network: Any, images: Tensor) -> list[Tensor]:
        """Return the maps [N, channels, h, w] of images whose size is a multiple of `multiple`."""
        # A plain vision transformer normalises its last features before their use; other architectures do not.
        maps: list[Tensor] = network.forward_intermediates(
            images, indices=list(self.indices), norm=self.is_single, output_fmt="NCHW", intermediates_only=True
        )
        return maps


def _create(name: str, **options: Any) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecations inside timm, and hints about its own training script
        network: nn.Module = timm.create_model(name, **options)
    return network


@contextlib.contextmanager
def on_meta() -> Iterator[None]:
    """Create and call networks without values."""
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        yield


def check_name(name: str) -> None:
    """Check that timm has an architecture, and its weights if the name ends in a tag.

    Raises:
        ConfigError: naming the closest architecture, or the tags of this one.
    """
    architecture, tag = split_model_name_tag(name)
    known = timm.list_models()
    if architecture not in known:
        raise ConfigError(
            f"backbone.name (={name}) must be an architecture of timm {timm.__version__}{nearest(architecture, known)}"
        )
    tags = [split_model_name_tag(entry)[1] for entry in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise ConfigError(
            f"backbone.name (={name}) must end in a tag of timm's weights for {architecture}: {', '.join(tags)}"
        )


@functools.cache
def find_architecture(name: str) -> Architecture:
    """Return what an architecture of timm offers, without dilation.

    Raises:
        ConfigError: if timm has no such architecture, or it does not fit the FCN heads.
    """
    check_name(name)
    with on_meta():
        info: Any = _create(name).feature_info
    strides = [int(entry["reduction"]) for entry in getattr(info, "info", info)]
    if len(set(strides)) == 1:
        indices = [len(strides) - 1]
    elif set(STRIDES) <= set(strides):
        indices = [max(i for i, stride in enumerate(strides) if stride == required) for required in STRIDES]
    else:
        offered = ", ".join(map(str, dict.fromkeys(strides)))
        raise ConfigError(
            f"backbone.name (={name}) must have feature maps of strides 8, 16 and 32 or of a single stride, but has "
            f"strides {offered}; use another architecture"
        )
    return _fit_sizes(name, tuple(indices), tuple(strides[index] for index in indices))


def _fit_sizes(name: str, indices: tuple[int, ...], strides: tuple[int, ...]) -> Architecture:
    """Choose the least padding, and the options of timm, with which an architecture accepts images of any size.

    Patches and windows must be complete. Windows have a fixed size in cells, or are a fraction of the size of the
    weights.
    """
    coarsest, native = strides[-1], published_weights(name).input_size[-1]
    plain = Architecture(name=name, indices=indices, strides=strides)
    networks = {
        options: network for options in SIZE_OPTIONS if (network := _create_on_meta(replace(plain, options=options)))
    }
    for multiple in dict.fromkeys((1, coarsest, 2 * coarsest, 4 * coarsest, 8 * coarsest, native)):
        for options, network in networks.items():
            architecture = replace(plain, multiple=multiple, options=options)
            if channels := _measure_channels(architecture, network):
                if multiple == 1 and _pads_as_tensorflow(network):
                    architecture = replace(architecture, multiple=coarsest, remainder=1)
                architecture = replace(architecture, channels=channels)
                return replace(architecture, smallest_batch=_measure_smallest_batch(architecture))
    raise ConfigError(
        f"backbone.name (={name}) must give complete feature maps for images of any size, which timm's {name} does not "
        f"(its weights are for {native}x{native}); use another architecture"
    )


def _pads_as_tensorflow(network: nn.Module) -> bool:
    """Whether a strided layer pads by an amount that depends on the size of its input.

    With a kernel of 3 and a stride of 2, cell i is centred at pixel 2i of an image with odd sides, and at 2i + 1 of one
    with even sides.
    """
    layers = (layer for layer in network.modules() if type(layer).__name__.endswith("Same"))
    return any(layer.stride not in (1, (1, 1)) for layer in layers)


def _create_on_meta(architecture: Architecture) -> nn.Module | None:
    """Return the network without values; None if timm does not support its options for this architecture."""
    try:
        with on_meta():
            return architecture.create().eval()
    except Exception:  # timm does not check arguments, so any exception is possible
        return None


@torch.no_grad()
def _measure_channels(architecture: Architecture, network: nn.Module) -> tuple[int, ...]:
    """Return the channels of the maps; empty if an image is not supported or not covered by whole cells."""
    channels: tuple[int, ...] = ()
    unit = architecture.multiple
    for height, width in SIZES if unit == 1 or architecture.remainder else ((unit, 2 * unit), (3 * unit, unit)):
        try:
            with on_meta():
                maps = architecture.maps(network, torch.empty(1, 3, height, width))
        except Exception:  # as in _create_on_meta
            return ()
        expected = [(-(-height // stride), -(-width // stride)) for stride in architecture.strides]
        if [features.shape[2:] for features in maps] != expected:
            return ()
        channels = tuple(features.shape[1] for features in maps)
    return channels


@torch.no_grad()
def _measure_smallest_batch(architecture: Architecture) -> int:
    side = 256 + architecture.padding(256)
    try:
        with on_meta():
            network = architecture.create().train()
            architecture.prune(network)
            architecture.maps(network, torch.empty(1, 3, side, side))
    except ValueError:  # of torch's batch norm: more than one value per channel is needed
        return 2
    return 1


@functools.cache
def dilate(architecture: Architecture, output_stride: int) -> Architecture | None:
    """Return the architecture with striding beyond `output_stride` replaced by dilation; None if timm cannot do it."""
    if output_stride == architecture.strides[-1]:
        return architecture
    strides = tuple(min(stride, output_stride) for stride in architecture.strides)
    dilated = replace(architecture, output_stride=output_stride, strides=strides)
    network = _create_on_meta(dilated)
    return dilated if network and _measure_channels(dilated, network) else None


def output_strides(architecture: Architecture) -> list[int]:
    """Return the output strides that an architecture can have; its own stride is the largest."""
    candidates = () if architecture.is_single else (8, 16)
    return [*(stride for stride in candidates if dilate(architecture, stride)), architecture.strides[-1]]


@functools.cache
def unused_parameters(architecture: Architecture, num_maps: int) -> frozenset[str]:
    """Return the names of parameters that do not affect the `num_maps` coarsest maps.

    Such parameters, which the finer branches of HRNet have, would get no gradient, and distributed training fails.
    """
    with on_meta(), torch.inference_mode(False), torch.enable_grad():
        network = architecture.create().eval()
        architecture.prune(network)
        side = 2 * max(architecture.multiple, architecture.strides[-1]) + architecture.remainder
        maps = architecture.maps(network, torch.empty(1, 3, side, side))
        sum(features.sum() for features in maps[-num_maps:]).backward()  # type: ignore[union-attr]
    return frozenset(name for name, parameter in network.named_parameters() if parameter.grad is None)

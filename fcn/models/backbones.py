"""Trunks of torchvision's classification networks as feature maps, without pooling and classifier.

Every map of every trunk is laid out alike: it has ceil(H / stride) x ceil(W / stride) cells, and cell i is
centred at pixel stride * i. A head can therefore combine and upsample the maps of any trunk in one way.

A new trunk is a member of `fcn.config.BackboneName` and an entry of `TRUNKS`.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
import torchvision.models as tv
from torch import Tensor, nn

from fcn.config import BackboneConfig, BackboneName, nearest

StateDict = Mapping[str, Tensor]


class WeightsError(ValueError):
    """Weights that cannot be had or do not fit the trunk: the message says why and what to use instead."""


@dataclass(frozen=True, kw_only=True)
class Trunk:
    """What makes a torchvision network a backbone. Maps are listed fine to coarse.

    Attributes:
        builder: torchvision's function, which gives the randomly initialised network. The `imagenet` weights
            are its IMAGENET1K_V1.
        ends: dotted name of the module whose output is the map. The network's children after the last one are left out.
        strides: distance between neighbouring cells, in input pixels.
        channels: channels of the map.
        adapt: changes the built network in place, for maps that would not lie at pixel stride * i.
    """

    builder: Callable[[], nn.Module]
    ends: tuple[str, ...]
    strides: tuple[int, ...]
    channels: tuple[int, ...]
    adapt: Callable[[nn.Module], None] | None = None


def _resnet(builder: Callable[[], nn.Module], *, channels: tuple[int, ...]) -> Trunk:
    return Trunk(builder=builder, ends=("layer2", "layer3", "layer4"), strides=(8, 16, 32), channels=channels)


def _pad_squeezenet(network: nn.Module) -> None:
    """Pad the strided layers by half their kernel, as a ResNet does.

    torchvision's SqueezeNet pads none of them: the cells of its last map lie at pixel 16 * i + 17, and an
    input needs 21 pixels. The weights are the same.
    """
    for layer in network.get_submodule("features").children():
        if isinstance(layer, nn.Conv2d):
            layer.padding = (3, 3)
        elif isinstance(layer, nn.MaxPool2d):
            layer.padding, layer.ceil_mode = 1, False


TRUNKS: dict[BackboneName, Trunk] = {
    BackboneName.resnet18: _resnet(tv.resnet18, channels=(128, 256, 512)),
    BackboneName.resnet34: _resnet(tv.resnet34, channels=(128, 256, 512)),
    BackboneName.resnet50: _resnet(tv.resnet50, channels=(512, 1024, 2048)),
    BackboneName.resnet101: _resnet(tv.resnet101, channels=(512, 1024, 2048)),
    BackboneName.resnet152: _resnet(tv.resnet152, channels=(512, 1024, 2048)),
    BackboneName.squeezenet1_0: Trunk(
        builder=tv.squeezenet1_0,
        ends=("features.5", "features.10", "features.12"),
        strides=(4, 8, 16),
        channels=(256, 512, 512),
        adapt=_pad_squeezenet,
    ),
}


class Backbone(nn.Module):
    """The three coarsest feature maps of a torchvision network.

    The parameters keep torchvision's names below `layers`, such as `layers.layer1.0.conv1.weight`.

    Args:
        network: the torchvision network; its modules are taken over, not copied.
        trunk: its entry of `TRUNKS`.

    Attributes:
        strides: of each map, fine to coarse, in pixels.
        channels: of each map, fine to coarse.
    """

    def __init__(self, network: nn.Module, trunk: Trunk) -> None:
        super().__init__()
        self.strides = trunk.strides
        self.channels = trunk.channels
        self.layers = nn.Sequential()
        last = trunk.ends[-1].split(".")[0]
        for name, child in network.named_children():
            self.layers.add_module(name, child)
            if name == last:
                break
        self._ends = trunk.ends
        self._steps = tuple(_steps(self.layers, ends=trunk.ends))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps, fine to coarse.

        Args:
            images: float [N, 3, H, W], normalised, H and W from 1 up.

        Returns:
            One float [N, channels, ceil(H / stride), ceil(W / stride)] for each stride; cell i is centred at
            pixel stride * i.
        """
        maps = []
        features = images
        for step in self._steps:
            features = self.layers.get_submodule(step)(features)
            if step in self._ends:
                maps.append(features)
        return maps


def _steps(module: nn.Module, *, ends: Collection[str], prefix: str = "") -> Iterator[str]:
    """Dotted names of the modules to run in turn; a child inside which a map ends is entered."""
    for name, child in module.named_children():
        path = prefix + name
        if any(end.startswith(f"{path}.") for end in ends):
            yield from _steps(child, ends=ends, prefix=f"{path}.")
        else:
            yield path


def build_backbone(config: BackboneConfig) -> Backbone:
    """Backbone with the weights that `config.weights` names.

    `none` leaves torchvision's random initialisation. `imagenet` fetches torchvision's IMAGENET1K_V1 file
    unless it lies in torch hub's folder. Anything else is the path of a state dict of torchvision's network,
    with or without its classifier.

    Raises:
        WeightsError: if the file is missing, cannot be fetched or read, or does not fit the trunk.
    """
    trunk = TRUNKS[config.name]
    network = trunk.builder()
    if trunk.adapt:
        trunk.adapt(network)
    backbone = Backbone(network, trunk)
    if config.weights != "none":
        state = _fetch(trunk) if config.weights == "imagenet" else _read(config.weights)
        _load(backbone, state, config=config, classifier=_left_out(network, backbone))
    return backbone


def _fetch(trunk: Trunk) -> StateDict:
    """State dict of torchvision's ImageNet weights, from torch hub's folder or else from its URL."""
    source = tv.get_model_weights(trunk.builder).IMAGENET1K_V1
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(source.url).path).name
    options = {"progress": False, "check_hash": True, "map_location": "cpu", "weights_only": True}
    try:
        return _checked(source.get_state_dict(**options))
    except Exception as error:  # network, file system, hash and unpickler have no common error
        remedy = "or use backbone.weights=none or the path of a state dict"
        if file.exists():
            raise WeightsError(f"backbone.weights (=imagenet) cannot read {file}; delete it, {remedy}") from error
        raise WeightsError(
            f"backbone.weights (=imagenet) must find {file} or fetch it from {source.url}, which failed "
            f"({error}); put the file there, {remedy}"
        ) from error


def _read(weights: str) -> StateDict:
    """State dict in the file that `weights` names. Only tensors are read: no code of a pickle is run."""
    path = Path(weights).expanduser()
    if not path.is_file():
        close = nearest(weights, ("none", "imagenet"))
        raise WeightsError(
            f"backbone.weights (={weights}) must be none, imagenet or the path of a state dict, "
            f"but there is no such file{close}"
        )
    try:
        return _checked(torch.load(path, map_location="cpu", weights_only=True))
    except Exception as error:  # bytes that are no state dict make the unpickler raise almost anything
        raise WeightsError(
            f"backbone.weights (={weights}) must be a state dict that torch.load(weights_only=True) reads; "
            "write it with torch.save(network.state_dict(), path)"
        ) from error


def _checked(state: Any) -> StateDict:
    """`state` itself if it maps names to tensors, and not, say, a training checkpoint."""
    if not isinstance(state, dict):
        raise TypeError(f"a {type(state).__name__} is no state dict")
    if not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()):
        raise TypeError("a state dict holds tensors by name")
    return state


def _left_out(network: nn.Module, backbone: Backbone) -> set[str]:
    """Children of the network that are no part of the trunk: pooling and classifier."""
    children = {name for name, _ in network.named_children()}
    return children - {name for name, _ in backbone.layers.named_children()}


def _load(backbone: Backbone, state: StateDict, *, config: BackboneConfig, classifier: Collection[str]) -> None:
    """Copy `state` into the trunk once every name and shape is known to fit."""
    given = {key: value for key, value in state.items() if key.split(".")[0] not in classifier}
    wanted = backbone.layers.state_dict()
    # Files older than torch 0.4.1, torchvision's V1 ResNets among them, lack it; load_state_dict fills it in.
    needed = [key for key in wanted if not key.endswith("num_batches_tracked")]
    problems = {
        "lacks": [key for key in needed if key not in given],
        "has the unknown": [key for key in given if key not in wanted],
        "has another shape for": [key for key in needed if key in given and given[key].shape != wanted[key].shape],
    }
    for problem, keys in problems.items():
        if keys:
            more = f" and {len(keys) - 1} more" if len(keys) > 1 else ""
            raise WeightsError(
                f"backbone.weights (={config.weights}) must fit torchvision's {config.name.value}, but it "
                f"{problem} {keys[0]}{more}; use weights of that network or another backbone"
            )
    backbone.layers.load_state_dict(given)

"""Weights of torchvision's networks: fetched or read as plain tensors, checked, and copied all or not at all."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from torch import Tensor, nn

from fcn.config import nearest
from fcn.errors import UserError
from fcn.runs.checkpoints import not_finite

StateDict = Mapping[str, Tensor]


class WeightsError(UserError):
    """Weights cannot be loaded or do not fit the network."""


def fetch(source: Any, *, key: str, remedy: str) -> StateDict:
    """Return the state dict of published weights, from torch hub's cache folder or their URL.

    Args:
        source: a member of a torchvision weights enumeration.
        key: key and value for messages: `backbone.weights (=imagenet)`.
        remedy: alternative for messages.

    Raises:
        WeightsError: if the file cannot be fetched or read.
    """
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(source.url).path).name
    options = {"progress": False, "check_hash": True, "map_location": "cpu", "weights_only": True}
    try:
        return _checked(source.get_state_dict(**options))
    except Exception as error:  # network, file system, hash and unpickler have no common error
        if file.exists():
            raise WeightsError(f"{key} cannot read {file}; delete it, {remedy}") from error
        raise WeightsError(
            f"{key} must find {file} or fetch it from {source.url}, which failed ({error}); "
            f"put the file there, {remedy}"
        ) from error


def read_state_dict(weights: str) -> StateDict:
    """Read the state dict in the file that `backbone.weights` names; no pickled code is executed.

    Raises:
        WeightsError: if there is no such file, or it holds something else.
    """
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
    """Return `state` if it maps names to tensors, unlike a training checkpoint."""
    if not isinstance(state, dict):
        raise TypeError(f"a {type(state).__name__} is no state dict")
    if not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()):
        raise TypeError("a state dict holds tensors by name")
    return state


def copy_weights(module: nn.Module, state: StateDict, *, key: str, network: str, unused: Collection[str]) -> None:
    """Copy `state` into `module`, or nothing if a name or shape does not fit.

    A fully connected layer's weight [out, in] fits a convolution [out, channels, height, width] of as many
    numbers: the classifier cast as convolutions of Long et al. 2015, section 3.1.

    Args:
        module: what receives the weights.
        state: weights by the module's names.
        key: what asked for them, for messages.
        network: torchvision's name of the network, for messages.
        unused: names that the whole network has and the module need not have.

    Raises:
        WeightsError: if a name is missing or unknown, a shape is another one, or a value is NaN or infinite.
    """
    own = module.state_dict()
    given = {name: _as_convolution(value, own.get(name)) for name, value in state.items()}
    # Files older than torch 0.4.1, torchvision's V1 ResNets among them, lack it; load_state_dict fills it in.
    needed = [name for name in own if not name.endswith("num_batches_tracked")]
    problems = {
        "lacks": [name for name in needed if name not in given],
        "has the unknown": [name for name in given if name not in own and name not in unused],
        "has another shape for": [name for name in needed if name in given and given[name].shape != own[name].shape],
    }
    for problem, names in problems.items():
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise WeightsError(
                f"{key} must fit torchvision's {network}, but it {problem} {names[0]}{more}; "
                "use weights of that network or another backbone"
            )
    if broken := not_finite({name: given[name] for name in needed}):
        raise WeightsError(f"{key} must be finite, but {broken} holds NaN or infinity; get the file anew")
    module.load_state_dict({name: value for name, value in given.items() if name in own})


def _as_convolution(value: Tensor, target: Tensor | None) -> Tensor:
    if target is None or value.ndim != 2 or target.ndim != 4:
        return value
    fits = len(value) == len(target) and value.numel() == target.numel()
    return value.reshape(target.shape) if fits else value


def copy_fitting(network: nn.Module, state: StateDict) -> tuple[list[str], list[str], list[str]]:
    """Copy the weights of another network whose name and shape fit, as from FCN-32s to FCN-16s.

    Nothing is copied if nothing of the backbone fits: score layers of two backbones may have the same shape (512
    channels on ResNet-18 and on SqueezeNet), and biases always have, but they read other features.

    Returns:
        Names that were copied; names of `network` that keep their initialisation; names of `state` that fit nowhere.
    """
    own = network.state_dict()
    fitting = {name: value for name, value in state.items() if name in own and own[name].shape == value.shape}
    if not any("backbone." in name for name in fitting):
        fitting = {}
    network.load_state_dict(fitting, strict=False)
    return list(fitting), [name for name in own if name not in fitting], [name for name in state if name not in fitting]

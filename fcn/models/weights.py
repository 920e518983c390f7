"""Weights of networks: downloaded or read as plain tensors, checked, and copied completely or not at all."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fcn.config import nearest
from fcn.errors import UserError
from fcn.runs.checkpoints import not_finite

log = logging.getLogger(__name__)

StateDict = Mapping[str, Tensor]

ENTRIES = ("state_dict", "model", "model_state_dict")
"""Entries of training checkpoints that contain the state dict, in the order in which they are tried."""

PREFIXES = ("module.", "_orig_mod.", "model.")
"""Beginnings of all names in state dicts saved from DistributedDataParallel, torch.compile and a LightningModule."""


class WeightsError(UserError):
    """Weights cannot be loaded or do not fit the network."""


def fetch(source: Any, *, key: str, remedy: str) -> StateDict:
    """Return the state dict of published weights, from torch hub's cache folder or their URL.

    Args:
        source: a member of a torchvision weights enumeration.
        key: key and value for messages: `backbone.weights (=imagenet)`.
        remedy: alternative for messages.

    Raises:
        WeightsError: if the file cannot be downloaded or read.
    """
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(source.url).path).name
    options = {"progress": False, "check_hash": True, "map_location": "cpu", "weights_only": True}
    try:
        return _checked(source.get_state_dict(**options))
    except Exception as error:  # network, file system, hash and unpickler raise unrelated exceptions
        if file.exists():
            raise WeightsError(f"{key} cannot read {file}; delete it, {remedy}") from error
        raise WeightsError(
            f"{key} needs {file}, which could not be downloaded from {source.url} ({error}); "
            f"put the file there, {remedy}"
        ) from error


def read_state_dict(weights: str) -> StateDict:
    """Read the state dict in the file named by `backbone.weights`, without executing pickled code.

    The file may contain a training checkpoint of another program: the state dict may be one of its `ENTRIES`, and all
    names may begin with `PREFIXES`. The log says which were removed.

    Raises:
        WeightsError: if the file does not exist or does not contain a state dict.
    """
    path = Path(weights).expanduser()
    if not path.is_file():
        close = nearest(weights, ("none", "imagenet"))
        raise WeightsError(
            f"backbone.weights (={weights}) must be none, imagenet or the path of a state dict, "
            f"but there is no such file{close}"
        )
    try:
        is_safe = path.suffix == ".safetensors"
        content = load_file(path) if is_safe else torch.load(path, map_location="cpu", weights_only=True)
        if isinstance(content, dict) and {"config", "normalization"} <= content.keys():
            raise WeightsError(
                f"backbone.weights (={weights}) must be weights of a backbone, but it is a checkpoint of a run; "
                "use model.init_from=<run>"
            )
        return _unwrapped(content, path)
    except WeightsError:
        raise
    except Exception as error:  # the readers raise almost any exception for damaged files
        raise WeightsError(
            f"backbone.weights (={weights}) must be a state dict that torch.load(weights_only=True) or safetensors "
            "reads; write it with torch.save(network.state_dict(), path)"
        ) from error


def _unwrapped(content: Any, path: Path) -> StateDict:
    """Return the state dict in the content of a file, without the `PREFIXES` of its names."""
    entry = None
    if isinstance(content, dict) and not _is_state_dict(content):
        entry = next((name for name in ENTRIES if _is_state_dict(content.get(name))), None)
    state, prefix = _checked(content[entry] if entry else content), ""
    while longer := next((each for each in PREFIXES if all(name.startswith(prefix + each) for name in state)), None):
        prefix += longer
    if entry:
        log.info("weights  from the entry %s of %s", entry, path)
    if prefix:
        log.info("weights  of %s without %s at the beginning of their names", path, prefix)
    return {name.removeprefix(prefix): value for name, value in state.items()}


def _checked(state: Any) -> StateDict:
    if not _is_state_dict(state):
        raise TypeError("not a state dict")
    return state  # type: ignore[no-any-return]


def _is_state_dict(content: object) -> bool:
    """Whether an object maps at least one name to a tensor, and nothing else."""
    return isinstance(content, dict) and bool(content) and all(isinstance(value, Tensor) for value in content.values())


def copy_weights(
    module: nn.Module,
    state: StateDict,
    *,
    key: str,
    network: str,
    unused: Collection[str],
    library: str = "torchvision",
) -> None:
    """Copy `state` into `module`, or raise without copying anything if a name or shape does not fit.

    The weight [out, in] of a fully connected layer fits a convolution [out, channels, height, width] with equally many
    values (Long et al. 2015, section 3.1).

    Args:
        module: the module that receives the weights.
        state: weights by the module's names.
        key: key and value that requested the weights, for messages.
        network: name of the network, for messages.
        unused: names of the complete network that the module need not have.
        library: library that defines the network, for messages.

    Raises:
        WeightsError: if a name is missing or unknown, a shape differs, or a value is NaN or infinite.
    """
    own = module.state_dict()
    given = {name: _as_convolution(value, own.get(name)) for name, value in state.items()}
    # Missing in files older than torch 0.4.1, such as those of torchvision's V1 ResNets; load_state_dict sets it to 0.
    required = [name for name in own if not name.endswith("num_batches_tracked")]
    problems = {
        "lacks": [name for name in required if name not in given],
        "has the unknown": [name for name in given if name not in own and name not in unused],
        "has another shape for": [n for n in required if n in given and given[n].shape != own[n].shape],
    }
    for problem, names in problems.items():
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise WeightsError(
                f"{key} must fit {library}'s {network}, but it {problem} {names[0]}{more}; "
                "use weights of that network or another backbone"
            )
    if name := not_finite({name: given[name] for name in required}):
        raise WeightsError(f"{key} must be finite, but {name} contains NaN or infinity; download the file again")
    module.load_state_dict({name: value for name, value in given.items() if name in own})


def _as_convolution(value: Tensor, target: Tensor | None) -> Tensor:
    if target is None or (value.ndim, target.ndim) != (2, 4):
        return value
    fits = len(value) == len(target) and value.numel() == target.numel()
    return value.reshape(target.shape) if fits else value


def copy_fitting(network: nn.Module, state: StateDict) -> tuple[list[str], list[str], list[str]]:
    """Copy the weights of another network whose names and shapes match, such as from FCN-32s to FCN-16s.

    Nothing is copied if no weight of the backbone matches: layers of the head may match by chance, such as the score
    layers of ResNet-18 and SqueezeNet, which both have 512 channels, but they were trained on other features.

    Returns:
        Names that were copied, names of `network` that keep their initialisation, and names of `state` without match.
    """
    own = network.state_dict()
    matches = {name: value for name, value in state.items() if name in own and own[name].shape == value.shape}
    if not any("backbone." in name for name in matches):
        matches = {}
    network.load_state_dict(matches, strict=False)
    return list(matches), [name for name in own if name not in matches], [name for name in state if name not in matches]

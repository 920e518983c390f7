"""Weights of encoders of segmentation_models_pytorch (smp): published ones, or files in the names of the encoder."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import timm
import torch
from segmentation_models_pytorch.encoders import encoders
from torch import nn

from fcn.models.network import IMAGENET_MEAN, IMAGENET_STD
from fcn.models.smp_architectures import UNIVERSAL
from fcn.models.smp_options import SmpBackbone
from fcn.models.timm_architectures import on_meta
from fcn.models.timm_weights import fetch_published, in_own_names, published_weights, read_from_hub
from fcn.models.weights import StateDict, WeightsError, copy_weights, read_state_dict

Color = tuple[float, float, float]

CLASSIFIERS = ("fc.", "_fc.", "classifier.", "last_linear.", "linear.", "head.")
"""First parts of the names of layers after the encoder."""

HALF: Color = (0.5, 0.5, 0.5)
NORMALIZATIONS: dict[str, tuple[Color, Color]] = {
    "dpn": ((124 / 255, 117 / 255, 104 / 255), (1 / (0.0167 * 255),) * 3),
    "inception": (HALF, HALF),
    "xception": (HALF, HALF),
    "timm-tf_efficientnet_lite": (HALF, HALF),
}
"""Mean and standard deviation by the first part of the encoder's name; all other encoders have those of ImageNet.

Source: encoders/_legacy_pretrained_settings.py in smp's repository. The installed package downloads them instead.
"""


def normalization(encoder: str, weights: str) -> tuple[Color, Color]:
    """Return mean and standard deviation of the images for which the weights of an encoder were trained.

    Args:
        encoder: name of the encoder.
        weights: `backbone.weights`; only `advprop` differs from the other weights of an encoder.
    """
    if encoder.startswith(UNIVERSAL):
        published: Any = published_weights(encoder.removeprefix(UNIVERSAL))
        return tuple(published.mean), tuple(published.std)
    if weights == "advprop":
        return HALF, HALF
    special = (values for prefix, values in NORMALIZATIONS.items() if encoder.startswith(prefix))
    return next(special, (IMAGENET_MEAN, IMAGENET_STD))


def load_encoder_weights(encoder: nn.Module, config: SmpBackbone) -> None:
    """Load the weights of `config.weights` into an encoder.

    `none` keeps the random initialisation. The name of published weights, such as `imagenet`, stands for a download, or
    for a file that was put in its place. Any other value is the path of a state dict, with or without classifier.

    Raises:
        WeightsError: if the weights cannot be loaded or do not fit.
    """
    if config.weights == "none":
        return
    key = f"backbone.weights (={config.weights})"
    if config.name.startswith(UNIVERSAL):
        _load_universal(encoder.get_submodule("model"), config, key=key)
        return
    published = encoders[config.name]["pretrained_settings"]
    if config.weights in published:
        state = _fetch(published[config.weights], key=key)
    elif config.weights == "imagenet":
        raise WeightsError(f"{key} must be {' or '.join(published)}, or the path of a state dict, for {config.name}")
    else:
        state = read_state_dict(config.weights)
    unused = {name for name in state if name.startswith(CLASSIFIERS)}
    copy_weights(encoder, _renamed(state, encoder), key=key, network=config.name, library="smp", unused=unused)


def _load_universal(network: nn.Module, config: SmpBackbone, *, key: str) -> None:
    """Load weights in timm's names into the network inside an encoder `tu-...`."""
    name = config.name.removeprefix(UNIVERSAL)
    state = fetch_published(name, key=key) if config.weights == "imagenet" else read_state_dict(config.weights)
    with on_meta():
        complete = timm.create_model(name)
    state = _renamed(in_own_names(state, complete, name), network)
    unused = _renamed(complete.state_dict(), network).keys()
    copy_weights(network, state, key=key, network=name, library="timm", unused=unused)


def _renamed(state: StateDict, network: nn.Module) -> StateDict:
    """Return weights by the names of the network, which may differ in dots and underscores: stages.0 and stages_0."""
    own = {_plain(name): name for name in network.state_dict()}
    if len(own) < len(network.state_dict()) or max(Counter(map(_plain, state)).values(), default=0) > 1:
        return state
    return {own.get(_plain(name), name): value for name, value in state.items()}


def _plain(name: str) -> str:
    return name.replace(".", "_")


def _fetch(source: dict[str, str], *, key: str) -> StateDict:
    """Return published weights: from torch hub's folder, the cache of the Hugging Face hub, or the network.

    Raises:
        WeightsError: if they cannot be downloaded or read.
    """
    repository = source["repo_id"]
    file = Path(torch.hub.get_dir()) / "checkpoints" / f"{repository.replace('/', '_')}.safetensors"
    return read_from_hub([file], repository, "model.safetensors", revision=source["revision"], key=key)

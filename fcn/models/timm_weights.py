"""Weights that timm publishes, and files in the names of timm or of the original authors."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import timm
import torch
from huggingface_hub import hf_hub_url, try_to_load_from_cache
from timm.models import PretrainedCfg, get_pretrained_cfg, model_entrypoint
from torch import nn

from fcn.models.weights import StateDict, WeightsError, read_state_dict

REMEDY = "use backbone.weights=none or the path of a state dict"


def published_weights(name: str) -> PretrainedCfg:
    """Return timm's description of the weights of an architecture: those of the tag in `name`, or the default ones."""
    published = get_pretrained_cfg(name)
    assert published is not None, name
    return published


def describe_published(name: str) -> str:
    """Return name and licence of the published weights, such as `resnet50.a1_in1k, licence apache-2.0`."""
    return f"{_full_name(name)}, licence {published_weights(name).license or 'unknown'}"


def _full_name(name: str) -> str:
    published = published_weights(name)
    return f"{published.architecture}.{published.tag}" if published.tag else f"{published.architecture}"


def fetch_published(name: str, *, key: str) -> StateDict:
    """Return the published weights: from torch hub's folder, the cache of the Hugging Face hub, or the network.

    Args:
        name: architecture, with or without tag.
        key: key and value for messages: `backbone.weights (=imagenet)`.

    Raises:
        WeightsError: if timm publishes none, or they cannot be downloaded or read.
    """
    published = published_weights(name)
    if not published.has_weights:
        raise WeightsError(f"{key} must exist for {name}, but timm {timm.__version__} publishes none; {REMEDY}")
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    suffix = ".safetensors" if published.hf_hub_id else ".pth"
    files = [folder / f"{_full_name(name)}{each}" for each in (suffix, ".safetensors", ".pth")]
    if not published.hf_hub_id:
        return read_or_download(files, url=str(published.url), key=key)
    return read_from_hub(files, published.hf_hub_id, published.hf_hub_filename or "model.safetensors", key=key)


def read_from_hub(
    files: Sequence[Path], repository: str, name: str, *, revision: str | None = None, key: str
) -> StateDict:
    """Return weights from one of `files`, the cache of the Hugging Face hub, or the hub; raises as `fetch_published`.

    Args:
        files: places for a file that is put there by hand; a download is saved as the first one.
        repository: repository on the hub.
        name: file in the repository.
        revision: commit or branch; None: the main branch.
        key: key and value for messages.
    """
    cached = try_to_load_from_cache(repository, name, revision=revision)
    places = [*files, Path(cached)] if isinstance(cached, str) else files
    return read_or_download(places, url=hf_hub_url(repository, name, revision=revision), key=key)


def read_or_download(files: Sequence[Path], *, url: str, key: str) -> StateDict:
    """Return the weights in the first of `files` that exists, else those of a URL, which are saved as the first file.

    Raises:
        WeightsError: if they cannot be downloaded or read.
    """
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        download_weights(url, file := files[0], key=key)
    try:
        return read_state_dict(str(file))
    except WeightsError as error:
        raise WeightsError(f"{key} cannot read {file}; delete it, or {REMEDY}") from error


def download_weights(url: str, file: Path, *, key: str) -> None:
    """Download weights to a file, as torch hub does: without huggingface_hub's minute of retries if offline.

    Args:
        url: where the weights are published.
        file: its folder is created.
        key: key and value for messages.

    Raises:
        WeightsError: naming the file and the URL.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(url, str(file), progress=False)
    except Exception as error:  # network and file system raise unrelated exceptions
        raise WeightsError(
            f"{key} needs {file}, which could not be downloaded from {url} ({error}); put the file there, or {REMEDY}"
        ) from error


def in_own_names(state: StateDict, network: nn.Module, name: str) -> StateDict:
    """Return the weights in the names of timm's network, if they have those of the authors or of an older timm.

    The conversion is timm's. It also resamples weights for images or patches of another size; such weights are returned
    unchanged, to be rejected.

    Args:
        state: the weights.
        network: timm's complete network.
        name: its architecture, with or without tag.
    """
    own = network.state_dict()
    if own.keys() == state.keys():
        return state
    convert = getattr(sys.modules[model_entrypoint(name).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return state
    try:
        converted: StateDict = convert(dict(state), network)
    except Exception:  # written for certain files; any exception is possible for others
        return state
    is_resampled = any(value.numel() != state[key].numel() for key, value in converted.items() if key in state)
    return state if is_resampled else converted

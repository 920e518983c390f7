"""Checks that no network is scored on images on which it was trained, although they belong to a validation split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fcn.config import FOLD, ConfigError, DataConfig
from fcn.data.datasets import WholeImages
from fcn.data.fingerprint import fingerprint
from fcn.data.image_sets import reader_of
from fcn.runs.checkpoints import data_state

FOLD_KEYS = ("fold", "folds", "split_seed", "train_split")
"""Keys on which the images of a fold depend."""

FRACTION_KEYS = ("val_fraction", "split_seed")
"""Keys on which the division by `data.val_fraction` depends; other images of a list do not move between its parts."""


@dataclass(frozen=True)
class Trained:
    """A network and the data on which it was trained.

    Attributes:
        checkpoint: file of the network.
        data: data section of its run.
    """

    checkpoint: Path
    data: DataConfig


def check_divisions(networks: Sequence[Trained], data: DataConfig, split: str) -> None:
    """Check that all networks were trained on the split or none, and if it is divided, on the same part of it.

    Args:
        networks: the networks to evaluate.
        data: data section of the evaluation.
        split: split to evaluate.

    Raises:
        ConfigError: naming the key, and the first network that was trained on other images.
    """
    trained_on = [network.checkpoint for network in networks if network.data.train_split == split]
    if 0 < len(trained_on) < len(networks):
        raise ConfigError(
            f"split (={split}) must be data.train_split of all runs or of none, but {trained_on[0]} was trained on its "
            "images; use split=<a list of other images>"
        )
    for network in networks:
        for key in _dividing_keys(data, split):
            if getattr(data, key) != getattr(network.data, key, None):
                raise ConfigError(_other_division(key, network, data, is_alone=len(networks) == 1))


def _dividing_keys(data: DataConfig, split: str) -> Sequence[str]:
    """Return the keys on which the images of a split depend because it is a random part of others."""
    if data.fold is not None and split in (FOLD, data.train_split):
        return FOLD_KEYS
    if getattr(data, "val_fraction", None) is not None and split in (data.train_split, data.val_split):
        return FRACTION_KEYS
    return ()


def _other_division(key: str, network: Trained, data: DataConfig, *, is_alone: bool) -> str:
    own = getattr(network.data, key, None)
    other_split = "<a list of other images>" if data.fold is None else data.val_split
    return (
        f"data.{key} (={getattr(data, key)}) must be that of {network.checkpoint} (={'null' if own is None else own}), "
        "which was trained on other images of data.train_split; use "
        f"{'that, or ' if is_alone else ''}split={other_split}"
    )


def check_fold(networks: Sequence[Trained], data: DataConfig, split: str, images: WholeImages) -> None:
    """Check that the images of a fold are those that validated the networks.

    A fold is a part of the order of all images. Therefore images move between folds if the list that is divided
    changes. How masks are read may differ.

    Args:
        networks: the networks to evaluate.
        data: data section of the evaluation.
        split: split to evaluate.
        images: its images.

    Raises:
        ConfigError: naming the first network that other images validated.
    """
    for network in networks if split == FOLD else ():
        validated = data_state(network.checkpoint).get("fingerprint", {}).get("val")
        if validated not in (None, fingerprint(images.pairs, reader_of(network.data).identity)):
            images_then = validated["images"]
            raise ConfigError(
                f"split (={FOLD}) must be the {images_then} images that validated {network.checkpoint}, but has "
                f"{len(images)} images that are not the same, because the images of {data.train_split} have changed; "
                f"restore them and data.limit, or use split={data.val_split}"
            )

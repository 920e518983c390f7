"""Checks that no network is scored on images on which it was trained."""

import itertools
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fcn.config import ConfigError, option
from fcn.data.fingerprint import fingerprint
from fcn.data.image_sets import split_images
from fcn.evaluation.trained_images import Trained, check_divisions, check_fold
from tests.voc_tree import VOC, make_voc_tree, write_list

NAMES = [f"image_{number}" for number in range(10)]
CLASSES = ["background", "thing"]
FOLD_2 = {"fold": 2, "folds": 3, "split_seed": 5}
FRACTION = {"val_fraction": 0.2, "split_seed": 5}


def folders(**keys):
    return option("data", "folders", classes=CLASSES, **keys)


def trained(*sections) -> list[Trained]:
    return [Trained(Path(f"{number}.ckpt"), section) for number, section in enumerate(sections)]


@pytest.mark.parametrize(
    ("split", "change"),
    [
        *itertools.product(["fold", "train"], [{"fold": 1}, {"folds": 4}, {"split_seed": 0}]),
        ("fold", {"train_split": "more"}),
    ],
)
def test_folds_of_all_networks_are_the_same(split, change):
    data = folders(**FOLD_2)
    (key,) = change
    message = (
        rf"data\.{key} \(=\w+\) must be that of 1\.ckpt \(={change[key]}\), which .* data\.train_split; use split=val$"
    )
    with pytest.raises(ConfigError, match=message):
        check_divisions(trained(data, replace(data, **change)), data, split)
    with pytest.raises(ConfigError, match=r"; use that, or split=val$"):
        check_divisions(trained(replace(data, **change)), data, split)
    check_divisions(trained(data, data), data, split)
    check_divisions(trained(data, replace(data, **change)), data, "val")


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("change", [{"val_fraction": 0.3}, {"split_seed": 0}, {"val_fraction": None, "split_seed": 0}])
def test_random_divisions_of_all_networks_are_the_same(split, change):
    data = folders(**FRACTION)
    with pytest.raises(ConfigError, match=rf"data\.{next(iter(change))} .* must be that of 1\.ckpt \(=(0\.3|0|null)\)"):
        check_divisions(trained(data, replace(data, **change)), data, split)
    check_divisions(trained(data, replace(data, limit=3)), data, split)
    check_divisions(trained(data, replace(data, **change)), data, "test")


def test_dataset_without_divisions_has_none_of_their_keys():
    data = folders(**FRACTION)
    with pytest.raises(ConfigError, match=r"data\.val_fraction \(=0\.2\) must be that of 0\.ckpt \(=null\)"):
        check_divisions(trained(option("data", "voc")), data, "val")
    check_divisions(trained(folders(**FOLD_2), option("data", "voc")), option("data", "voc"), "val")


def test_training_split_of_one_of_the_networks_is_refused():
    first, second = option("data", "voc"), option("data", "voc", train_split="val", val_split="test")
    with pytest.raises(
        ConfigError, match=r"split \(=val\) must be data\.train_split of all runs or of none, but 1\.ckpt was trained"
    ):
        check_divisions(trained(first, second), first, "val")
    check_divisions(trained(first, second), first, "test")
    check_divisions(trained(first, first), first, "train")
    check_divisions(trained(second), first, "val")  # chosen by the user: the training images of the run


def test_images_of_a_fold_are_those_that_validated_the_network(tmp_path):
    """The fold is a part of the order of all images, so that it changes with their list."""
    masks = {name: np.eye(4) for name in [*NAMES, "new"]}
    make_voc_tree(tmp_path, masks, {"train": NAMES, "val": ["new"]})
    data = option("data", "voc", root=str(tmp_path), classes=CLASSES, fold=0, folds=3, cache=False)
    images = split_images(data, tmp_path, "fold")
    state = {"fingerprint": {"val": fingerprint(images.pairs, images.reader.identity)}}
    path = tmp_path / "last.ckpt"
    torch.save({"VOCDataModule": state}, path)
    networks = [Trained(path, data)]

    def check(**keys):
        other = replace(data, **keys)
        check_fold(networks, other, "fold", split_images(other, tmp_path, "fold"))

    check()
    check(label_map={1: "ignore"})
    before = {pair.name for pair in images.pairs}
    limited = replace(data, limit=7)
    trained_on = {pair.name for pair in split_images(limited, tmp_path, "fold").pairs} - before
    assert trained_on, "the limit moves an image on which the network was trained into the fold"
    message = re.escape(
        f"split (=fold) must be the {len(images)} images that validated {path}, but has 3 images that are not the "
        "same, because the images of train have changed; restore them and data.limit, or use split=val"
    )
    with pytest.raises(ConfigError, match=message):
        check(limit=7)
    write_list(tmp_path / VOC, "train", *NAMES[3:])
    with pytest.raises(ConfigError, match="have changed"):
        check()
    check_fold(networks, data, "val", split_images(data, tmp_path, "val"))
    torch.save({}, path)  # not from training
    check()

"""Folds of a dataset: the sets of a run, their cache, and the keys that cannot be combined."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from fcn.config import Config, ConfigError, check_data, option
from fcn.config.choices import Protocol
from fcn.data.image_sets import split_images
from fcn.data.module import VOCDataModule
from fcn.errors import DataError
from tests.voc_tree import make_voc_tree, write_list

CLASSES = ["background", "thing"]
NAMES = [f"image_{number}" for number in range(11)]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    masks = {name: np.eye(4 + number, 6) for number, name in enumerate([*NAMES, "v"])}
    return make_voc_tree(tmp_path, masks, {"train": NAMES, "val": ["v"]})


def data(root: Path, name: str = "voc", **keys):
    return option("data", name, root=str(root), classes=CLASSES, **keys)


def module(section, **keys) -> VOCDataModule:
    """Return the data module of a run after its preparation."""
    module = VOCDataModule(Config(name="x", batch_size=1, data=section, **keys))
    module.prepare_data()
    module.setup("fit")
    return module


def names(images) -> list[str]:
    return [pair.name for pair in images.pairs]


@pytest.mark.parametrize("cache", [True, False])
def test_folds_of_a_split_have_every_image_once_and_share_one_cache(tree, tmp_path, cache):
    validated = []
    for fold in range(4):
        sets = module(data(tmp_path, fold=fold, folds=4, cache=cache))
        assert sorted(names(sets.train_images) + names(sets.val_images)) == sorted(NAMES)
        assert sets.warnings == []
        validated += names(sets.val_images)
        for images in (sets.train_images, sets.val_images):
            assert [images.pairs[i].image.stem for i in range(len(images))] == names(images)
            heights = [4 + NAMES.index(name) for name in names(images)]
            assert [images[i]["mask"].shape[0] for i in range(len(images))] == heights == [h for h, _ in images.sizes()]
    assert Counter(validated) == Counter(NAMES)
    files = list((tmp_path / "cache").glob("*")) if cache else []
    assert len(files) == cache
    if cache:
        before = files[0].stat().st_mtime_ns
        module(data(tmp_path))  # without folds, the list has the same cache
        assert files[0].stat().st_mtime_ns == before


def test_list_of_validation_images_is_neither_needed_nor_changed(tree, tmp_path):
    section = data(tmp_path, fold=0)
    assert names(split_images(section, tmp_path, "val")) == ["v"]
    (tree / "ImageSets/Segmentation/val.txt").unlink()
    assert len(module(section).val_images) == 3


def test_limit_is_that_of_the_divided_split(tree, tmp_path):
    sets = [module(data(tmp_path, fold=fold, folds=3, limit=7)) for fold in range(3)]
    assert sorted(name for each in sets for name in names(each.val_images)) == sorted(NAMES[:7])
    with pytest.raises(ConfigError, match=r"data\.folds \(=5\) must not exceed the 4 images of train; use data\.fold="):
        module(data(tmp_path, fold=0, limit=4))


def test_images_of_all_roots_are_divided(tree, tmp_path):
    masks = {name: np.eye(4) for name in "abc"}
    make_voc_tree(tmp_path / "more", masks, {"train": "abc", "val": []})
    sets = [module(data(tmp_path, fold=fold, folds=2, extra_roots=[str(tmp_path / "more")])) for fold in range(2)]
    validated = [name for each in sets for name in names(each.val_images)]
    assert sorted(validated) == sorted([*NAMES, "more/a", "more/b", "more/c"])


def test_folder_without_splits_is_divided_except_for_its_test_images(tree, tmp_path):
    folders = tree.rename(tmp_path / "set")
    for old, new in (("JPEGImages", "images"), ("SegmentationClass", "masks")):
        (folders / old).rename(folders / new)
    (folders / "ImageSets/Segmentation/train.txt").unlink()
    section = data(folders, "folders", fold=1, folds=3)
    sets = module(section)
    assert sorted(names(sets.train_images) + names(sets.val_images)) == sorted(NAMES)  # v is in the list val
    write_list(tmp_path, "x", "x")
    (folders / "all.txt").write_text("\n".join(NAMES))
    with pytest.raises(DataError, match=r"data\.train_split \(=train\) must leave images to divide, but all images of"):
        module(section)


def test_small_images_are_dropped_from_both_parts_under_the_protocol_of_d2l(tree, tmp_path):
    section = data(tmp_path, fold=0, folds=2, protocol=Protocol.d2l, crop_size=[6, 6])
    sets = module(section)
    assert sorted(names(sets.train_images) + names(sets.d2l_images)) == sorted(NAMES[2:])
    assert len(names(sets.val_images)) in (5, 6)


def test_fingerprint_is_that_of_the_fold(tree, tmp_path):
    first, other = (module(data(tmp_path, fold=fold, folds=2)).fingerprint for fold in (0, 1))
    assert (first["train"], first["val"]) == (other["val"], other["train"])
    assert first["val"] != first["train"]


def test_class_that_a_fold_lacks_is_a_warning(tree, tmp_path):
    section = option("data", "voc", root=str(tmp_path), classes=[*CLASSES, "rare"], fold=0, folds=2)
    lines = module(section).warnings
    assert [line.partition(" must")[0] for line in lines] == ["the masks of train", "the masks of fold"]
    assert all(line.endswith("no pixel of rare; use fewer data.folds or another data.split_seed") for line in lines)


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        ("voc", {"folds": 3}, r"data\.folds \(=3\) has no effect without data\.fold; use data\.fold=0"),
        ("voc", {"split_seed": 1}, r"data\.split_seed \(=1\) has no effect without data\.fold$"),
        ("folders", {"split_seed": 1}, r"has no effect without data\.fold or data\.val_fraction$"),
        ("voc", {"fold": 5}, r"data\.fold \(=5\) must be less than data\.folds \(=5\), because .*; use 0 to 4$"),
        ("voc", {"fold": 0, "train_split": "fold"}, r"data\.train_split \(=fold\) must have another name with data"),
        (
            "folders",
            {"fold": 0, "val_fraction": 0.2},
            r"data\.val_fraction \(=0\.2\) must be null with data\.fold \(=0",
        ),
    ],
)
def test_keys_that_contradict_each_other_are_refused(tmp_path, name, keys, message):
    with pytest.raises(ConfigError, match=message):
        check_data(data(tmp_path, name, **keys))

"""Images of a split: those without masks, and the first ones of a list."""

from pathlib import Path

import numpy as np
import pytest

from fcn.config import Config, option
from fcn.data.image_sets import read_pairs, split_images
from fcn.data.module import VOCDataModule
from fcn.errors import DataError
from tests.voc_tree import make_voc_tree, write_list

CLASSES = ["background", "thing"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    masks = {name: np.eye(4, 6) for name in "abcd"}
    return make_voc_tree(tmp_path, masks, {"train": "abc", "val": "d", "test": "cd"})


def data(root: Path, **keys):
    return option("data", "voc", root=str(root), classes=CLASSES, cache=False, **keys)


def test_split_without_any_mask_can_only_be_predicted(tree, tmp_path):
    for name in "cd":
        (tree / f"SegmentationClass/{name}.png").unlink()
    with pytest.raises(DataError, match=r"^test must have masks .* none of its 2 images has one; scripts/predict"):
        read_pairs(data(tmp_path), tmp_path, "test")
    with pytest.raises(DataError, match=r"train\.txt line 3 \(=c\) must name an image and a mask"):
        read_pairs(data(tmp_path), tmp_path, "train")


def test_folder_of_another_name_is_named(tree, tmp_path):
    (tree / "SegmentationClass").rename(tree / "SegmentationClassPNG")
    with pytest.raises(DataError, match=r"; rename SegmentationClassPNG to SegmentationClass$"):
        read_pairs(data(tmp_path), tmp_path, "train")


def test_missing_image_is_no_missing_mask(tree, tmp_path):
    write_list(tree, "test", "x", "y")
    with pytest.raises(DataError, match=r"test\.txt line 1 \(=x\) must name an image .* but .*x\.jpg is missing"):
        read_pairs(data(tmp_path), tmp_path, "test")


def test_limit_of_a_cached_set_does_not_replace_the_cache_of_all_images(tree, tmp_path):
    for limit in (None, 2, None):
        module = VOCDataModule(Config(name="x", batch_size=1, data=data(tmp_path, limit=limit)))
        module.config.data.cache = True
        module.prepare_data()
        module.setup("fit")
        assert len(module.train_images) == (3 if limit is None else 2)
        assert module.train_images.decoded is not None
    assert len(list((tmp_path / "cache").iterdir())) == 4
    assert split_images(module.config.data, tmp_path, "train").decoded.path == module.train_images.decoded.path

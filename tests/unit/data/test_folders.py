"""Folders of images and masks: splits by lists, by sub-folders and by a fraction, and pairs of one name."""

import unicodedata
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fcn.config import ConfigError, DataConfig, check_data, option
from fcn.config.choices import MaskFormat
from fcn.data.folders import PairFolders
from fcn.data.image_sets import cache_name, read_pairs
from fcn.data.split_lists import MissingSplit
from fcn.errors import DataError


def touch(root: Path, *files: str) -> Path:
    for file in files:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).touch()
    return root


def make(root: Path, names: Iterable[str], *, image: str = ".jpg", mask: str = ".png") -> Path:
    """Create empty images and masks."""
    return touch(root, *(f"images/{name}{image}" for name in names), *(f"masks/{name}{mask}" for name in names))


def folders(root: Path, **keys) -> PairFolders:
    return PairFolders(root, "images", "masks", "train", "val", **keys)


def names(split: Iterable) -> list[str]:
    return [pair_of().name for pair_of in split]


@pytest.mark.parametrize("place", [".", "ImageSets/Segmentation"])
def test_list_gives_pairs_in_its_order(tmp_path, place):
    make(tmp_path, ["b", "a photo", "sub/c", "d.x"], image=".JPG", mask=".TIF")
    touch(tmp_path, f"{place}/train.txt")
    (tmp_path / place / "train.txt").write_text("sub/c\nb.jpg\n\na photo\nd.x\n")
    pairs = [pair_of() for pair_of in folders(tmp_path).entries("train")]
    assert [pair.name for pair in pairs] == ["sub/c", "b", "a photo", "d.x"]
    assert pairs[0].image == tmp_path / "images/sub/c.JPG"
    assert pairs[0].mask == tmp_path / "masks/sub/c.TIF"


def test_sub_folders_are_splits(tmp_path):
    make(tmp_path, ["train/b", "train/a", "val/a", "val/deep/c", "test/x"])
    touch(tmp_path, "images/train/.hidden.jpg", "images/train/notes.txt", "images/train/.cache/d.jpg")
    assert names(folders(tmp_path).entries("train")) == ["train/a", "train/b"]
    assert names(folders(tmp_path).entries("val")) == ["val/a", "val/deep/c"]
    assert names(folders(tmp_path).entries("test")) == ["test/x"]


@settings(max_examples=20, deadline=None)
@given(
    count=st.integers(30, 60),
    fraction=st.sampled_from([0.2, 0.5, 0.8]),
    seed=st.integers(0, 2**40),
    added=st.lists(st.text("xyzü", min_size=1, max_size=4), max_size=20, unique=True),
)
def test_fraction_divides_all_images_and_adding_some_moves_no_other(tmp_path_factory, count, fraction, seed, added):
    first = [f"img_{number}" for number in range(count)]
    root = make(tmp_path_factory.mktemp("set"), first)
    division = folders(root, val_fraction=fraction, seed=seed)
    train, val = names(division.entries("train")), names(division.entries("val"))
    assert sorted(train + val) == sorted(first)
    make(root, added)
    later = folders(root, val_fraction=fraction, seed=seed)
    assert set(names(later.entries("train"))) & set(first) == set(train)
    assert set(names(later.entries("val"))) & set(first) == set(val)


def test_fraction_is_a_share_of_many_names_and_depends_on_the_seed(tmp_path):
    division = folders(tmp_path, val_fraction=0.25)
    many = [f"photo {number}" for number in range(4000)]
    chosen = [division._validates(name) for name in many]
    assert 0.22 < np.mean(chosen) < 0.28
    assert chosen != [replace(division, seed=1)._validates(name) for name in many]
    assert all(
        division._validates(n) == division._validates(unicodedata.normalize("NFD", n)) for n in ["ü", "é1", "å2"]
    )


def test_fraction_divides_the_training_split_if_there_is_one(tmp_path):
    make(tmp_path, [f"train/{number}" for number in range(30)] + ["test/x"])
    division = folders(tmp_path, val_fraction=0.5)
    assert sorted(names(division.entries("train")) + names(division.entries("val"))) == sorted(
        f"train/{number}" for number in range(30)
    )
    assert names(division.entries("test")) == ["test/x"]
    make(tmp_path, ["val/x"])
    with pytest.raises(DataError, match=r"data\.val_fraction \(=0\.5\) must be null, because .* has the split val"):
        division.entries("val")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            ["pictures/a.jpg", "masks/a.png"],
            r"data\.images \(=images\) must be a folder in .*, which contains masks, pic",
        ),
        (
            ["images/a.jpg", "mask/a.png"],
            r"data\.masks .* contains images, mask; did you mean mask\?; use data",
        ),
        (
            ["images/a.jpg", "masks/a.png"],
            r"split \(=train\) must be a list .*there is neither; use data",
        ),
        (["images/a/a.jpg", "masks/a.png", "tain.txt"], r"lists and sub-folders: a, tain; did you mean tain\?"),
        (["images/train/a.txt", "masks/a.png"], r"images/train must contain at least one image"),
        (["images/train/a.jpg", "images/train/a.png", "masks/a.png"], r"a\.jpg and a\.png must have different names"),
    ],
)
def test_missing_folder_or_split_is_named_with_what_there_is(tmp_path, files, message):
    with pytest.raises(DataError, match=message):
        folders(touch(tmp_path, *files)).entries("train")


@pytest.mark.parametrize("line", ["../../secret", "/etc/passwd", "a/../../b", "a\\b", "a//b"])
def test_lines_that_leave_the_folders_are_rejected(tmp_path, line):
    make(tmp_path, ["a"])
    (tmp_path / "train.txt").write_text(f"a\n{line}\n")
    with pytest.raises(DataError, match=r"train\.txt line 2 \(=.*\) must be the name of an image in images"):
        folders(tmp_path).entries("train")


def test_split_that_leaves_the_folder_is_rejected(tmp_path):
    make(tmp_path / "set", ["a"])
    touch(tmp_path, "secret.txt")
    with pytest.raises(MissingSplit, match=r"split \(=\.\./secret\) must be a list"):
        folders(tmp_path / "set").entries("../secret")


def test_image_without_mask_is_an_error_of_that_image_alone(tmp_path):
    make(tmp_path, ["train/a", "train/b"])
    (tmp_path / "masks/train/a.png").unlink()
    first, second = folders(tmp_path).entries("train")
    with pytest.raises(DataError, match=r"\(=train/a\) must have an image and a mask, but .*train/a\.\* is missing"):
        first()
    assert second().name == "train/b"


def folder_data(root: Path, **keys) -> DataConfig:
    data = option("data", "folders", classes=["background", "thing"], **keys)
    data.root = str(root)
    return data


def test_several_roots_are_one_set_and_a_root_may_lack_a_split(tmp_path):
    make(tmp_path / "one", ["train/a", "val/b"])
    make(tmp_path / "two", ["train/a"])
    data = folder_data(tmp_path / "one", extra_roots=[str(tmp_path / "two")])
    assert [pair.name for pair in read_pairs(data, Path(data.root), "train")] == ["train/a", "two/train/a"]
    assert [pair.name for pair in read_pairs(data, Path(data.root), "val")] == ["val/b"]
    with pytest.raises(MissingSplit, match="one/images"):
        read_pairs(data, Path(data.root), "test")
    data.extra_roots = [str(tmp_path / "three")]
    with pytest.raises(DataError, match=r"data\.root .*three\) must be a folder"):
        read_pairs(data, Path(data.root), "train")


def test_limit_takes_the_first_images_of_each_split(tmp_path):
    make(tmp_path, ["train/a", "train/b", "train/c", "val/a"])
    data = folder_data(tmp_path, limit=2)
    assert [pair.name for pair in read_pairs(data, tmp_path, "train")] == ["train/a", "train/b"]
    assert [pair.name for pair in read_pairs(data, tmp_path, "val")] == ["val/a"]


def test_fraction_leaves_out_images_of_other_lists_and_of_the_test_folder(tmp_path):
    make(tmp_path, [f"{number}" for number in range(30)] + ["test/x", "cats/y"])
    (tmp_path / "held_out.txt").write_text("3\n4.jpg\nno image\n")
    (tmp_path / "README.txt").write_bytes("5\nüber".encode("latin-1"))
    division = folders(tmp_path, val_fraction=0.5)
    divided = names(division.entries("train")) + names(division.entries("val"))
    assert sorted(divided) == sorted(["cats/y", *(f"{number}" for number in range(30) if number not in (3, 4))])
    (tmp_path / "all.txt").write_text("".join(f"{name}\n" for name in divided))
    with pytest.raises(DataError, match=r"all images of .*images are in other splits; use data\.train_split="):
        division.entries("train")


def test_root_without_any_split_is_an_error(tmp_path):
    make(tmp_path / "one", ["train/a", "val/b"])
    make(tmp_path / "two", ["c"])
    (tmp_path / "two/training.txt").write_text("c\n")
    data = folder_data(tmp_path / "one", extra_roots=[str(tmp_path / "two")])
    for split in ("train", "val"):
        with pytest.raises(MissingSplit, match=rf"split \(={split}\) must be a list .*two/{split}\.txt .*: training"):
            read_pairs(data, Path(data.root), split)


@pytest.mark.parametrize("extra", [["one"], ["link"], ["two", "two"]])
def test_root_named_twice_is_refused(tmp_path, extra):
    for name in ("one", "two"):
        make(tmp_path / name, ["train/a", "val/b"])
    (tmp_path / "link").symlink_to("one")
    data = folder_data(tmp_path / "one", extra_roots=[str(tmp_path / name) for name in extra])
    with pytest.raises(ConfigError, match=r"data\.extra_roots .* must be other folders than data\.root .* named twice"):
        check_data(data)


def test_image_listed_twice_is_an_error(tmp_path):
    make(tmp_path, ["a", "b"])
    (tmp_path / "train.txt").write_text("a\n\nb\na.jpg\n")
    with pytest.raises(DataError, match=r"train\.txt line 4 \(=a\) must be another image than .*train\.txt line 1, "):
        folders(tmp_path).entries("train")


def test_line_with_the_suffix_of_an_image_is_first_read_as_a_whole_name(tmp_path):
    make(tmp_path, ["scan.rgb", "scan", "b"])
    (tmp_path / "train.txt").write_text("scan.rgb\nscan.jpg\nb.jpg\n")
    pairs = [pair_of() for pair_of in folders(tmp_path).entries("train")]
    assert [pair.name for pair in pairs] == ["scan.rgb", "scan", "b"]
    assert [pair.image.name for pair in pairs] == ["scan.rgb.jpg", "scan.jpg", "b.jpg"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"label_map": {256: "1"}}, "must map values from 0 to 255 with data.mask_format=palette"),
        ({"label_map": {70000: "1"}, "mask_format": MaskFormat.index}, "must map values from 0 to 65535 with"),
    ],
)
def test_keys_that_cannot_have_an_effect_are_refused(tmp_path, keys, message):
    with pytest.raises(ConfigError, match=message):
        check_data(folder_data(tmp_path, **keys))


@pytest.mark.parametrize("key", ["train_split", "val_split"])
@pytest.mark.parametrize("name", ["", "..", "a/b"])
def test_split_must_be_a_plain_name(tmp_path, key, name):
    with pytest.raises(ConfigError, match=rf"data\.{key} \(='{name}'\) must be the name of a list or of a sub-folder"):
        check_data(folder_data(tmp_path, val_fraction=0.5, **{key: name}))


def test_image_is_not_its_own_mask(tmp_path):
    touch(tmp_path, "images/a.jpg", "images/a.png", "images/b.png")
    (tmp_path / "train.txt").write_text("a\nb\n")
    first, second = replace(folders(tmp_path), masks="images").entries("train")
    assert (first().image.name, first().mask.name) == ("a.jpg", "a.png")
    with pytest.raises(DataError, match=r"line 2 \(=b\) must have an image and a mask, but .*b\.png is both; use data"):
        second()


def test_divisions_of_a_sweep_keep_their_caches(tmp_path):
    keys = [{}, {"val_fraction": 0.5}, {"val_fraction": 0.2}, {"val_fraction": 0.2, "split_seed": 1}]
    assert len({cache_name(folder_data(tmp_path, **each), "train") for each in keys}) == len(keys)

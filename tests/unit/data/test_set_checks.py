"""Counts of a set, comparison of its palettes, and what is said about masks that mislead."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fcn.config.choices import Exif, MaskFormat
from fcn.data.cache import open_cache, write_missing_caches
from fcn.data.dataset_options import ShapesData, VocData
from fcn.data.datasets import WholeImages
from fcn.data.mask_formats import MaskReader
from fcn.data.pair_reader import PairReader
from fcn.data.set_checks import other_palettes, palette_colors, require_labels, set_warnings, shared_names
from fcn.data.set_facts import SetFacts, combine_facts
from fcn.data.split_lists import Pair, read_split
from fcn.data.statistics import count_pixels
from fcn.errors import DataError
from tests.voc_tree import make_voc_tree, noise, pair_reader

CLASSES = ["background", "cat", "dog"]


def images_of(root: Path, masks: dict[str, list], *, cached: bool, num_classes: int = 3) -> WholeImages:
    """Write a tree with one split and return its images."""
    make_voc_tree(root, masks, {"train": masks})
    pairs, reader = read_split(root, "train"), pair_reader(num_classes)
    if not cached:
        return WholeImages(pairs, reader=reader)
    write_missing_caches({"train": pairs}, reader=reader, folder=root / "cache")
    return WholeImages(pairs, reader=reader, decoded=open_cache(pairs, "train", reader=reader, folder=root / "cache"))


MASKS = {"a": [[0, 0, 0, 1]], "b": [[255, 0, 0, 0]], "c": [[2, 2, 255, 255]]}
COUNTS = [[3, 1, 0, 0], [3, 0, 0, 1], [0, 0, 2, 2]]


def test_counts_of_the_cache_are_those_of_the_masks(tmp_path, monkeypatch):
    images = images_of(tmp_path, MASKS, cached=True)
    assert images.facts is not None
    assert images.facts.counts.tolist() == COUNTS
    assert images.select([2, 0]).facts.counts.tolist() == [COUNTS[2], COUNTS[0]]
    monkeypatch.setattr(WholeImages, "read", None)  # the masks are not read again
    assert count_pixels(images, [0, 2]).tolist() == [COUNTS[0], [0] * 4, COUNTS[2]]


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize(
    ("masks", "message"),
    [
        ({"a": [[255, 255]], "b": [[255]]}, r"^the masks of train must contain pixels of a class, but all are void"),
        ({"a": [[0, 255]], "b": [[0]]}, r"a class other than background.* 0 and 255.*use 'data\.label_map=\{255: 1\}'"),
    ],
)
def test_masks_without_labels_are_an_error(tmp_path, masks, message, cached):
    with pytest.raises(DataError, match=message):
        require_labels(images_of(tmp_path, masks, cached=cached), "train", CLASSES)


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("masks", [{"a": [[255]], "b": [[0, 255, 1]]}, {"a": [[0, 0]]}, {"a": [[1, 255]]}])
def test_masks_with_labels_are_accepted(tmp_path, masks, cached):
    require_labels(images_of(tmp_path, masks, cached=cached), "train", CLASSES)


def test_only_the_first_labelled_mask_is_read_without_cache(tmp_path, monkeypatch):
    images = images_of(tmp_path, {"a": [[1]], **{f"m{number}": [[0]] for number in range(60)}}, cached=False)
    reads = []
    read = PairReader.read
    monkeypatch.setattr(PairReader, "read", lambda self, pair: reads.append(pair) or read(self, pair))
    require_labels(images, "train", CLASSES)
    assert len(reads) < 30  # those that threads have begun to read ahead


def warnings_of(root: Path, reader: PairReader, names: list[str], **options) -> list[str]:
    pairs = [Pair(name, root / f"{name}.jpg", root / f"{name}.png") for name in names]
    facts = combine_facts([reader.inspect(pair)[2] for pair in pairs], reader.num_classes)
    return set_warnings(facts, pairs, "train", VocData(classes=CLASSES, **options))


def write_pair(root: Path, name: str, mask: Image.Image, *, orientation: int = 1) -> None:
    mask.save(root / f"{name}.png")
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(noise(mask.height, mask.width)).save(root / f"{name}.jpg", exif=exif)


def palette_image(indices: list, palette: list[tuple[int, int, int]]) -> Image.Image:
    image = Image.fromarray(np.array(indices, np.uint8))
    image.putpalette([value for color in palette for value in color])
    return image


PALETTE = [(0, 0, 0), (200, 0, 0), (0, 200, 0)]
WITH_VOID = [*PALETTE, *((9, 9, value) for value in range(3, 256))]
COMPLETE = [[0, 1, 2, 0]]


def test_complete_masks_give_no_warning(tmp_path):
    write_pair(tmp_path, "a", palette_image(COMPLETE, PALETTE))
    assert warnings_of(tmp_path, pair_reader(3), ["a"]) == []


def test_absent_class_and_much_void_are_said(tmp_path):
    write_pair(tmp_path, "a", palette_image([[0, 1, 255, 255, 255]], WITH_VOID))
    absent, void = warnings_of(tmp_path, pair_reader(3), ["a"])
    assert "have no pixel of dog; remove it from data.classes" in absent
    assert void.startswith("60% of the pixels of train are void (255)")
    assert "data.label_map={255: 1}" in void


def test_half_void_is_no_warning(tmp_path):
    write_pair(tmp_path, "a", palette_image([[0, 1, 2, 255, 255, 255]], WITH_VOID))
    assert warnings_of(tmp_path, pair_reader(3), ["a"]) == []


def test_orientations_are_counted_unless_their_use_is_chosen(tmp_path):
    for name, turn in {"a": 1, "b": 3, "c": 6, "d": 3}.items():
        write_pair(tmp_path, name, palette_image(COMPLETE, PALETTE), orientation=turn)
    (line,) = warnings_of(tmp_path, pair_reader(3), ["a", "b", "c", "d"])
    assert line.startswith(
        "3 of 4 images of train have an EXIF orientation (3 in 2, 6 in 1), which is ignored; use data.exif="
    )
    assert warnings_of(tmp_path, pair_reader(3), ["a", "b", "c", "d"], exif=Exif.ignore) == []


def test_palette_in_another_order_is_named_with_keys_that_read_all_masks_alike(tmp_path):
    names = ["a", "b", "c", "d"]
    for name in names:
        write_pair(tmp_path, name, palette_image(COMPLETE, PALETTE))
    # An editor saves the same picture with another order of the palette.
    write_pair(tmp_path, "b", palette_image([[2, 1, 0, 2]], PALETTE[::-1]))
    (line,) = warnings_of(tmp_path, pair_reader(3), names)
    assert f"1 of 4 have colours of the others at other indices: {tmp_path / 'b.png'}; read colours" in line
    assert line.endswith("data.mask_format=rgb 'data.colors=[[0,0,0],[200,0,0],[0,200,0]]'")
    reader = PairReader(MaskReader(3, MaskFormat.rgb, colors=tuple(PALETTE)))
    assert warnings_of(tmp_path, reader, names) == []
    masks = [reader.masks.read(tmp_path / f"{name}.png") for name in names]
    assert all(torch.equal(mask, torch.tensor(COMPLETE, dtype=torch.uint8)) for mask in masks)


def test_shorter_palettes_and_other_colours_are_no_warning(tmp_path):
    write_pair(tmp_path, "a", palette_image(COMPLETE, PALETTE))
    write_pair(tmp_path, "b", palette_image([[0, 1]], PALETTE[:2]))
    write_pair(tmp_path, "c", palette_image([[0, 1]], [(9, 9, 9), (8, 8, 8), (0, 0, 0)]))  # black is not used
    assert warnings_of(tmp_path, pair_reader(3), ["a", "b", "c"]) == []


def test_colours_of_void_follow_those_of_the_classes(tmp_path):
    palette = [(value, 0, 0) for value in range(255)] + [(224, 224, 192)]
    palette_image([[0]], palette).save(tmp_path / "m.png")
    assert palette_colors(tmp_path / "m.png", 2) == "[[0,0,0],[1,0,0],[224,224,192]]"


def test_images_of_both_splits_are_named():
    pairs = [Pair(name, Path(name), Path(name)) for name in "abcdefgh"]
    assert shared_names(pairs[:4], pairs[4:], ("train", "val")) == []
    (line,) = shared_names(pairs[:7], pairs[1:], ("train", "val"))
    assert line.startswith("train and val must have different images, but 6 are in both: b, c, d, e, f and 1 more; ")


def test_palettes_of_two_splits_are_compared(tmp_path):
    for name, palette, mask in (
        ("a", PALETTE, COMPLETE),
        ("b", PALETTE, [[0, 0]]),
        ("c", PALETTE[::-1], [[2, 1, 0]]),
        ("d", PALETTE[::-1], [[2]]),
    ):
        write_pair(tmp_path, name, palette_image(mask, palette))
    reader = pair_reader(3)

    def compared(train: str, val: str) -> list[str]:
        pairs = [[Pair(name, tmp_path / f"{name}.jpg", tmp_path / f"{name}.png") for name in n] for n in (train, val)]
        facts = [combine_facts([reader.inspect(pair)[2] for pair in of_split], 3) for of_split in pairs]
        assert not any(each.has_other_palette.any() for each in facts)  # within a split, all palettes are equal
        return other_palettes(list(zip(facts, pairs, strict=True)), ("train", "val"), reader)

    (line,) = compared("ab", "dc")
    assert line.startswith(f"masks of train and val must have one palette, but {tmp_path / 'c.png'} has colours of ")
    assert line.endswith("data.mask_format=rgb 'data.colors=[[0,0,0],[200,0,0],[0,200,0]]'")
    assert compared("a", "b") == []


def test_absent_class_of_the_built_in_dataset_names_no_key_that_it_lacks():
    facts = SetFacts(np.array([[4, *[1] * 4, 0, 0, 1, 0]]))
    (line,) = set_warnings(facts, [Pair("a", Path("a"), Path("a"))], "train", ShapesData())
    assert line.endswith("have no pixel of cross; use more images")

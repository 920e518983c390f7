"""Reading of split lists: their text, the files that their lines name, and errors for invalid lists."""

import os
import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fcn.data.split_lists import Pair, open_split, read_lines, read_split
from fcn.errors import DataError
from tests.voc_tree import make_listed_tree, palette_mask, write_list


@pytest.mark.parametrize("text", ["b\na\n", "\n  b \n\na", "\ufeffb\r\na\r\n"])
@pytest.mark.parametrize("suffix", [".jpg", ".JPG", ".jpeg", ".png"])
def test_split_keeps_the_order_of_its_list(tmp_path: Path, text: str, suffix: str) -> None:
    tree = make_listed_tree(tmp_path, {"train": text})
    image = (tree / "JPEGImages" / "a.jpg").rename(tree / "JPEGImages" / f"a{suffix}")
    masks = tree / "SegmentationClass"
    pairs = read_split(tmp_path, "train")
    assert pairs == [Pair("b", image.with_name("b.jpg"), masks / "b.png"), Pair("a", image, masks / "a.png")]
    assert read_split(tree, "train") == pairs  # the root may be the folder VOC2012


@pytest.mark.parametrize(
    "line", ["b", "/JPEGImages/b.jpg /SegmentationClassAug/b.png", "JPEGImages/b.jpg SegmentationClassAug/b.png"]
)
def test_train_aug_uses_its_own_masks_and_both_line_formats(tmp_path: Path, line: str) -> None:
    tree = make_listed_tree(tmp_path, {"train_aug": f"a\n{line}\n"}, aug=True)
    pairs = read_split(tmp_path, "train_aug")
    assert pairs[1] == Pair("b", tree / "JPEGImages" / "b.jpg", tree / "SegmentationClassAug" / "b.png")


@pytest.mark.parametrize(
    ("lists", "split", "message"),
    [
        ({"train": "a\n", "val": "b\n"}, "trian", r"\(=trian\) must be a list .*: train, val; did you mean train"),
        ({"train": "a\n", "val": "b\n"}, "train.txt", "did you mean train"),
        ({"train": "a\n"}, "../../../../secret", "must be a list in .*: train$"),
        ({}, "train", "it contains none"),
        ({"train": "a\n"}, "train_aug", r"must be a list in .* did you mean train\?; create it with .* sbd=true"),
        ({"val": "\n  \n"}, "val", "must list at least one image"),
        ({"val": "a\n\nc\n"}, "val", r"val\.txt line 3 \(=c\) must name .*JPEGImages/c\.jpg is missing"),
        (
            {"val": "a\n\nb\na\n"},
            "val",
            r"val\.txt line 4 \(=a\) must be another image than .*val\.txt line 1, because",
        ),
        ({"val": "a\nJPEGImages/a.jpg SegmentationClass/a.png"}, "val", "line 2 .* than .* line 1"),
        ({"val": "a.jpg\n"}, "val", "remove the suffix$"),
        ({"val": "A\n"}, "val", r"\(=A\) .*; the folder contains a\.jpg; correct the name, or convert the file$"),
        ({"val": "a 1\n"}, "val", r"\(=a 1\) .*; the folder contains a\.jpg; correct the name"),
    ],
)
def test_invalid_split_is_an_error(tmp_path: Path, lists: dict[str, str], split: str, message: str) -> None:
    make_listed_tree(tmp_path, lists)
    (tmp_path / "secret.txt").write_text("a\n")
    with pytest.raises(DataError, match=message):
        read_split(tmp_path, split)


@pytest.mark.parametrize("root", ["VOCdevkit/VOC2012", "."])
def test_missing_split_lists_are_an_error(tmp_path: Path, root: str) -> None:
    tree = make_listed_tree(tmp_path, {})
    (tree / "ImageSets" / "Segmentation").rmdir()
    with pytest.raises(DataError, match=r"VOC2012 must contain .*train\.txt and val\.txt next to JPEGImages"):
        read_split(tmp_path / root, "train")


@pytest.mark.parametrize(
    "line",
    [
        "x/a", "../a", "/etc/passwd", "..", "x\\a", "a\x07", "JPEGImages/a.jpg",
        "JPEGImages/a SegmentationClass/a",
        "/JPEGImages/a.jpg /SegmentationClassAug/b.png", "/JPEGImages/../a.jpg /SegmentationClassAug/../a.png",
        "../../JPEGImages/a.jpg SegmentationClass/a.png", "JPEGImages/a.jpg SegmentationClass\\..\\a.png",
        "//a.jpg //a.png",
    ],
)  # fmt: skip
@pytest.mark.parametrize("split", ["val", "train_aug"])
def test_line_cannot_leave_the_folders(tmp_path: Path, split: str, line: str) -> None:
    make_listed_tree(tmp_path, {split: f"a\n{line}\n"}, aug=split == "train_aug")
    with pytest.raises(DataError, match=rf"{split}\.txt line 2 \(=.*\) must be an image id .*, or `JPEGImages/"):
        read_split(tmp_path, split)


def files_of(tmp_path: Path, split: str = "train") -> list[tuple[str, str, str]]:
    """Return name, image and mask of the pairs of a split, with paths below the folder VOC2012."""
    tree = tmp_path / "VOCdevkit" / "VOC2012"
    pairs = read_split(tmp_path, split)
    return [(p.name, str(p.image.relative_to(tree)), str(p.mask.relative_to(tree))) for p in pairs]


def rename_pair(tree: Path, name: str, image: str, mask: str) -> None:
    (tree / "JPEGImages" / f"{name}.jpg").rename(tree / "JPEGImages" / image)
    (tree / "SegmentationClass" / f"{name}.png").rename(tree / "SegmentationClass" / mask)


@pytest.mark.parametrize("listed", ["NFC", "NFD"])
@pytest.mark.parametrize("stored", ["NFC", "NFD"])
@pytest.mark.parametrize(
    "name",
    [
        "photo 1", "photo (1)", "img+1", "foto\u0308 é", "बिल्ली",
        "a&b", "a@2x", "[x]*?", "..a", "a..b", "C:a", "a.b.c", "-v",
    ],
)  # fmt: skip
def test_any_name_without_a_separator_is_an_image_id(tmp_path: Path, name: str, stored: str, listed: str) -> None:
    tree = make_listed_tree(tmp_path, {"train": f"{unicodedata.normalize(listed, name)}\n"})
    file = unicodedata.normalize(stored, name)
    rename_pair(tree, "a", f"{file}.jpg", f"{file}.png")
    expected = unicodedata.normalize(listed, name)
    assert files_of(tmp_path) == [(expected, f"JPEGImages/{file}.jpg", f"SegmentationClass/{file}.png")]


@pytest.mark.parametrize("suffix", [".JPEG", ".PNG", ".bmp", ".tif", ".TIFF", ".webp", ".gif", ".Jpg"])
def test_any_suffix_of_pillow_names_an_image_or_a_mask(tmp_path: Path, suffix: str) -> None:
    tree = make_listed_tree(tmp_path, {"train": "a\nJPEGImages/b.jpg SegmentationClass/b.png\n"})
    for name in "ab":
        rename_pair(tree, name, f"{name}{suffix}", f"{name}{suffix}")
    assert files_of(tmp_path) == [(n, f"JPEGImages/{n}{suffix}", f"SegmentationClass/{n}{suffix}") for n in "ab"]


def test_file_that_pillow_cannot_read_is_named(tmp_path: Path) -> None:
    tree = make_listed_tree(tmp_path, {"train": "a\n", "val": "b\n"})
    rename_pair(tree, "a", "a.heic", "a.png")
    rename_pair(tree, "b", "b.jpg", "b.npy")
    with pytest.raises(DataError, match=r"JPEGImages/a\.jpg is missing .*; the folder contains a\.heic; .* convert"):
        read_split(tmp_path, "train")
    with pytest.raises(DataError, match=r"SegmentationClass/b\.png is missing .*; the folder contains b\.npy; .*"):
        read_split(tmp_path, "val")


@pytest.mark.parametrize("line", ["JPEGImages/ .jpg SegmentationClass/ .png", "b", "c"])
def test_missing_file_beside_a_link_to_itself(tmp_path: Path, line: str) -> None:
    tree = make_listed_tree(tmp_path, {"train": f"{line}\n"})
    (tree / "JPEGImages" / "b.jpg").unlink()
    (tree / "JPEGImages" / "b.jpg").symlink_to("b.jpg")
    with pytest.raises(DataError, match=r"JPEGImages/[bc ]\.jpg is missing or cannot be read; restore the file"):
        read_split(tmp_path, "train")
    (tree / "JPEGImages" / "a.jpg").rename(tree / "JPEGImages" / "c.webp")
    (tree / "SegmentationClass" / "a.png").rename(tree / "SegmentationClass" / "c.png")
    write_list(tree, "val", "c")
    assert files_of(tmp_path, "val") == [("c", "JPEGImages/c.webp", "SegmentationClass/c.png")]


def test_preferred_suffix_does_not_depend_on_other_files(tmp_path: Path) -> None:
    tree = make_listed_tree(tmp_path, {"train": "a\n"})
    for suffix in (".bmp", ".png", ".jpeg"):
        Image.new("RGB", (6, 4)).save(tree / "JPEGImages" / f"a{suffix}")
    assert files_of(tmp_path) == [("a", "JPEGImages/a.jpg", "SegmentationClass/a.png")]


@pytest.mark.parametrize("split", ["trainval_aug", "pairs", "train_aug"])
@pytest.mark.parametrize(
    "line",
    [
        "JPEGImages/{0}.jpg SegmentationClassAug/{0}.png", "/JPEGImages/{0}.jpg\t/SegmentationClassAug/{0}.png",
        "JPEGImages/{0}.jpg   SegmentationClassAug/{0}.png",
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["2007_000032", "photo 1.jpg copy"])
def test_two_columns_name_both_files_under_any_name_of_the_list(
    tmp_path: Path, split: str, line: str, name: str
) -> None:
    tree = make_listed_tree(tmp_path, {split: line.format(name)})
    rename_pair(tree, "a", f"{name}.jpg", f"{name}.png")  # SegmentationClass also contains a mask of that name
    (tree / "SegmentationClassAug").mkdir()
    palette_mask([[1]]).save(tree / "SegmentationClassAug" / f"{name}.png")
    assert files_of(tmp_path, split) == [(name, f"JPEGImages/{name}.jpg", f"SegmentationClassAug/{name}.png")]


def test_two_columns_name_any_folder_below_the_tree(tmp_path: Path) -> None:
    tree = make_listed_tree(tmp_path, {"train": "my photos/set 1/a.jpg labels/a.png\n"})
    (tree / "my photos").mkdir()
    (tree / "JPEGImages").rename(tree / "my photos" / "set 1")
    (tree / "SegmentationClass").rename(tree / "labels")
    assert files_of(tmp_path) == [("a", "my photos/set 1/a.jpg", "labels/a.png")]


@pytest.mark.parametrize(("split", "first"), [("train", "SegmentationClass"), ("train_aug", "SegmentationClassAug")])
def test_image_id_without_mask_is_looked_up_in_the_other_folder(tmp_path: Path, split: str, first: str) -> None:
    tree = make_listed_tree(tmp_path, {split: "a\nb\n"})
    other = {"SegmentationClass": "SegmentationClassAug", "SegmentationClassAug": "SegmentationClass"}[first]
    (tree / "SegmentationClassAug").mkdir(exist_ok=True)
    (tree / "SegmentationClass" / "a.png").rename(tree / other / "a.png")
    for folder in (first, other):
        palette_mask([[0]]).save(tree / folder / "b.png")
    assert [mask for _, _, mask in files_of(tmp_path, split)] == [f"{other}/a.png", f"{first}/b.png"]


def test_missing_folder_of_augmented_masks_names_the_command(tmp_path: Path) -> None:
    tree = make_listed_tree(tmp_path, {"train_aug": "a\nb\n"})
    (tree / "SegmentationClass" / "b.png").unlink()
    with pytest.raises(DataError, match=r"SegmentationClassAug/b\.png is missing .* sbd=true.*_split=train$"):
        read_split(tmp_path, "train_aug")


def test_missing_folder_of_masks_names_the_one_that_is_there(tmp_path: Path) -> None:
    tree = make_listed_tree(tmp_path, {"train": "a\n"})
    (tree / "SegmentationClass").rename(tree / "SegmentationClassPNG")  # written by labelme
    with pytest.raises(DataError, match=r"; rename SegmentationClassPNG to SegmentationClass$"):
        read_split(tmp_path, "train")


def test_shipped_list_is_that_of_the_paper(tmp_path: Path) -> None:
    tree = make_listed_tree(tmp_path, {"val": "a\n"})
    names = [name for _, name in open_split(tree, "seg11valid").lines]
    assert len(names) == len(set(names)) == 736  # Long et al. 2015, footnote 7
    assert all(re.fullmatch(r"20(07|08|09|10|11)_\d{6}", name) for name in names)
    write_list(tree, "seg11valid", "b")
    assert files_of(tmp_path, "seg11valid") == [("b", "JPEGImages/b.jpg", "SegmentationClass/b.png")]


# Text of a list


@pytest.mark.parametrize("codec", ["utf-8", "utf-8-sig", "utf-16", "utf-16-be"])
def test_list_in_utf_8_or_utf_16(tmp_path: Path, codec: str) -> None:
    text = "über 1\r\n\r\n  बिल्ली \nx\u2028y"
    mark = b"\xfe\xff" if codec == "utf-16-be" else b""  # of the byte order; Python writes it for utf-16
    (tmp_path / "x.txt").write_bytes(mark + text.encode(codec))
    assert read_lines(tmp_path / "x.txt") == [(1, "über 1"), (3, "बिल्ली"), (4, "x\u2028y")]


@pytest.mark.parametrize(
    "content", ["a\nü".encode("latin-1"), b"a\n\x00b", "a\nb".encode("utf-16-le"), b"\xff\xfea\x00\n\x00b"]
)
def test_list_in_another_encoding_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.txt").write_bytes(content)
    with pytest.raises(DataError, match=r"x\.txt line [12] \(=.*\) must be text in UTF-8, .*; save the list in UTF-8"):
        read_lines(tmp_path / "x.txt")


def test_list_that_is_a_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x.txt").mkdir()
    with pytest.raises(DataError, match=r"x\.txt must be a readable text file: Is a directory"):
        read_lines(tmp_path / "x.txt")


@settings(deadline=None, max_examples=300)
@given(line=st.text(max_size=40))
def test_no_line_names_a_file_outside_the_tree(tmp_path_factory: pytest.TempPathFactory, line: str) -> None:
    tree = tmp_path_factory.getbasetemp() / "tree"
    write_list(tree, "train", "a")
    listed = open_split(tree, "train")
    try:
        name, image = listed.image(1, line)
    except DataError:
        return
    assert os.path.normpath(image).startswith(f"{tree}{os.sep}")
    assert image.name.startswith(name)

"""Pascal VOC 2012 segmentation on disk, and whatever has its layout: split lists, image/mask pairs.

Facts: 1464 train and 1449 val images (2913 trainval) with masks of equal size, sides of at most 500 pixels.
21 classes with the background, in `fcn.config.VOC_CLASSES`; 255 is void, along the borders of objects and on
difficult ones. Masks are palette PNGs: the class is the palette index, the palette only gives colours to look
at. The list `train_aug` (10582 images, Hariharan et al. 2011) is not part of VOC.

Source: Everingham et al., "The Pascal Visual Object Classes Challenge", and the VOC2012 development kit.
"""

from __future__ import annotations

import os
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from fcn.config import IGNORE_INDEX, nearest
from fcn.errors import UserError

TREE = Path("VOCdevkit", "VOC2012")  # below a root, as VOC's own archive unpacks
IMAGES = "JPEGImages"
IMAGE_SUFFIXES = (".jpg", ".JPG", ".jpeg", ".png")  # VOC has the first alone
SPLIT_LISTS = Path("ImageSets", "Segmentation")
AUG_SPLIT = "train_aug"
AUG_MASKS = "SegmentationClassAug"
PAPERS_SPLIT = "seg11valid"  # 736 images of VOC 2011's val that are not in SBD's train (Long et al. 2015, footnote 7)
_AUG_LINE = re.compile(rf"/?JPEGImages/(?P<id>\S+)\.jpg\s+/?{AUG_MASKS}/(?P=id)\.png")


class DataError(UserError):
    """A dataset that is not as it must be: says what is wrong and, after a semicolon, what to do.

    Args:
        problem: what is wrong, naming file and value.
        remedy: what the user can do about it. Optional because torch rebuilds an exception of a loader
            process from its one finished message.
    """

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(problem, remedy)

    def __str__(self) -> str:
        """Problem and remedy in one line."""
        return "; ".join(part for part in self.args if part)


@dataclass(frozen=True)
class Pair:
    """An image of a split list and its mask."""

    name: str
    image: Path
    mask: Path


def read_split(root: Path, split: str) -> list[Pair]:
    """Pairs of a split in the order of its list, all files known to exist.

    Args:
        root: as of `require_tree`.
        split: name of a list in ImageSets/Segmentation, without .txt. Masks lie in SegmentationClass, for
            train_aug in SegmentationClassAug.

    Raises:
        DataError: as `require_tree`, `split_lines` and `pair_of_line`.
    """
    tree = require_tree(root)
    return [pair_of_line(tree, split, number, line) for number, line in split_lines(tree, split)]


def split_lines(tree: Path, split: str) -> list[tuple[int, str]]:
    """Line numbers (from 1) and texts of a split list, blank lines left out.

    Raises:
        DataError: if the list is absent or empty.
    """
    folder = tree / SPLIT_LISTS
    known = sorted(path.stem for path in folder.glob("*.txt"))
    # Also keeps a split such as "../../x" from leaving the folder.
    if split not in known:
        there = ", ".join(known) or "none are there"
        remedy = "copy it there from data/pascal of the papers' repository" if split == PAPERS_SPLIT else ""
        raise DataError(f"split (={split}) must be a list in {folder}: {there}{nearest(split, known)}", remedy)
    path = folder / f"{split}.txt"
    # Editors on Windows begin a file with a byte order mark, which utf-8-sig drops.
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise DataError(
            f"{path} must list at least one image", "write names of images into it, one a line, or restore it"
        )
    return lines


def require_tree(root: Path) -> Path:
    """The folder <root>/VOCdevkit/VOC2012, or `root` itself, known to hold ImageSets/Segmentation.

    Raises:
        DataError: if neither does, saying where it was looked for and how to get it.
    """
    for tree in (root / TREE, root):
        if (tree / SPLIT_LISTS).is_dir():
            return tree
        if (tree / IMAGES).is_dir():
            problem = f"{tree} must hold {SPLIT_LISTS}/train.txt and val.txt beside {IMAGES}"
            raise DataError(problem, "write the names of the images into them, without suffix, one a line")
    if (root.absolute().parent / TREE / SPLIT_LISTS).is_dir():
        problem = f"data.root (={root}) must be the folder that holds {TREE}"
        raise DataError(problem, f"use {root.absolute().parent}")
    raise DataError(
        f"data.root (={root}) must hold VOC2012, but {(root / TREE / SPLIT_LISTS).absolute()} is absent",
        "use data.download=true or `python scripts/prepare_voc.py download=true` to get it (2 GB), or "
        "data.root=... if it is elsewhere; bare `python train.py` trains on drawn shapes and needs no data",
    )


def pair_of_line(tree: Path, split: str, number: int, line: str) -> Pair:
    """Image and mask of one line of a split list, both known to exist.

    A line is an image id. In train_aug it may also be `/JPEGImages/<id>.jpg /SegmentationClassAug/<id>.png`,
    a form in which that list is widely passed on.

    Raises:
        DataError: if the line is neither, or the image or the mask is absent (with list file and line).
    """
    where = f"{tree / SPLIT_LISTS / split}.txt line {number}"
    masks = AUG_MASKS if split == AUG_SPLIT else "SegmentationClass"
    match = _AUG_LINE.fullmatch(line) if split == AUG_SPLIT else None
    name = match["id"] if match else line
    # A list can come from anywhere: an id must not lead out of the folders of images and masks.
    if not re.fullmatch(r"[\w.-]+", name) or ".." in name:
        shown = textwrap.shorten(line if line.isprintable() else ascii(line), 60)
        problem = f"{where} (={shown}) must be an image id such as 2007_000032, without folder or suffix"
        raise DataError(problem, "correct the line or take it out")
    pair = Pair(name, image=find_image(tree, name), mask=tree / masks / f"{name}.png")
    for path in (pair.image, pair.mask):
        try:
            there = path.is_file()
        except OSError as error:
            remedy = "have its folder made readable for you"
            raise DataError(f"{where} (={name}) must name a pair, but {path}: {error.strerror}", remedy) from error
        if not there:
            remedy = "leave out the suffix" if name.endswith(IMAGE_SUFFIXES) else _remedy(path)
            raise DataError(f"{where} (={name}) must name a pair, but {path} is absent", remedy)
    return pair


def find_image(tree: Path, name: str) -> Path:
    """The file of an image id, with the first of `IMAGE_SUFFIXES` where none is there."""
    paths = [tree / IMAGES / f"{name}{suffix}" for suffix in IMAGE_SUFFIXES]
    return next((path for path in paths if os.path.isfile(path)), paths[0])  # False where it may not be read


def _remedy(absent: Path) -> str:
    if absent.parent.name == AUG_MASKS and not absent.parent.is_dir():
        return f"put the augmented masks (SBD) into {absent.parent}, or use data.train_split=train"
    return "restore the file or take the line out"


def read_pair(pair: Pair, num_classes: int) -> tuple[Tensor, Tensor]:
    """Image, uint8 [3, H, W] RGB, and mask, uint8 [H, W], of one pair.

    Raises:
        DataError: as `read_image` and `read_mask`, or if the sizes differ.
    """
    image, mask = read_image(pair.image), read_mask(pair.mask, num_classes)
    if image.shape[1:] != mask.shape:
        problem = f"{pair.image} {tuple(image.shape[1:])} must be as large as {pair.mask} {tuple(mask.shape)}"
        raise DataError(problem, "restore both from the same archive")
    return image, mask


def read_image(path: Path) -> Tensor:
    """Stored pixels of an image file, uint8 [3, H, W] RGB, channels last in memory.

    Grey, palette and CMYK images are converted, an alpha channel is dropped, 16 bits are scaled down to 8. An
    EXIF orientation is not applied, because VOC's masks match the pixels as stored.

    Raises:
        DataError: if the file cannot be decoded, or holds floating-point pixels, whose range nobody knows.
    """
    image = _decode(path)
    if image.mode == "F":
        raise DataError(f"{path} (mode F) must hold integer pixels", "save it as 8-bit RGB")
    return torch.from_numpy(np.array(to_rgb(image))).permute(2, 0, 1)


def read_mask(path: Path, num_classes: int) -> Tensor:
    """Palette indices of a mask file, uint8 [H, W]: classes 0 to num_classes - 1, and 255 for void.

    Raises:
        DataError: if the file cannot be decoded, is no palette image, or holds another value.
    """
    image = _decode(path)
    # SegmentationClassAug is commonly passed on as grey PNGs, whose grey value is the index. Anywhere else a
    # grey mask is one that some tool has converted, whose greys say nothing about classes.
    allowed = ("P", "L") if path.parent.name == AUG_MASKS else ("P",)
    if image.mode not in allowed:
        problem = f"{path} (mode {image.mode}) must be a palette PNG (mode P), whose index is the class"
        own = "docs/tutorial.md has the lines that convert masks of your own"
        raise DataError(problem, f"restore it as VOC distributes it; {own}")
    mask = np.array(image)
    wrong = np.unique(mask[(mask >= num_classes) & (mask != IGNORE_INDEX)])
    if wrong.size:
        values = ", ".join(map(str, wrong[:5]))
        problem = f"{path} (values {values}) must hold only 0 to {num_classes - 1} and {IGNORE_INDEX}"
        raise DataError(problem, "name every class in data.classes, or restore the mask")
    return torch.from_numpy(mask)


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of an image file, from its header alone.

    Raises:
        DataError: if the file is no image.
    """
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except Exception as error:  # for the reason given in _decode
        raise _unreadable(path, error) from error


def _decode(path: Path) -> Image.Image:
    try:
        image = Image.open(path)
        with image:
            image.load()
    except Exception as error:  # PIL lets errors of many codecs through: OSError, SyntaxError, struct.error
        raise _unreadable(path, error) from error
    return image


def _unreadable(path: Path, error: Exception) -> DataError:
    return DataError(
        f"{path} must be a readable image: {decoding_problem(error)}", "restore it or take it off the list"
    )


def decoding_problem(error: Exception) -> str:
    """What PIL or the system says of a file that is no image, without the name of the file."""
    if isinstance(error, UnidentifiedImageError):
        return "it begins like no image format"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels"
    return " ".join(str(error).split()) or type(error).__name__


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode as 8-bit RGB: 16 bits are scaled down, an alpha channel is dropped."""
    # PIL's own conversion clips 16 bits at 255, which leaves such an image nearly white.
    if image.mode.startswith("I"):
        sixteen = np.asarray(image).astype(np.int64).clip(0, 65535)
        image = Image.fromarray((sixteen // 256).astype(np.uint8))
    # PIL warns if a palette with transparent entries goes to RGB at once.
    if image.mode == "P":
        image = image.convert("RGBA")
    return image.convert("RGB")

"""Pascal VOC 2012 segmentation on disk, and other datasets in its layout: split lists, images and masks.

Facts: 1464 train and 1449 val images (2913 trainval) with masks of equal size, sides of at most 500 pixels.
21 classes with the background, in `fcn.config.VOC_CLASSES`; 255 is void, along the borders of objects and on
difficult ones. Masks are palette PNGs: the class is the palette index; the palette is for display only. The list
`train_aug` (10582 images, Hariharan et al. 2011) is not part of VOC.

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
IMAGE_SUFFIXES = (".jpg", ".JPG", ".jpeg", ".png")  # VOC uses the first
SPLIT_LISTS = Path("ImageSets", "Segmentation")
AUG_SPLIT = "train_aug"
AUG_MASKS = "SegmentationClassAug"
PAPERS_SPLIT = "seg11valid"  # 736 images of VOC 2011's val that are not in SBD's train (Long et al. 2015, footnote 7)
Size = tuple[int, int]  # height, width
_AUG_LINE = re.compile(rf"/?JPEGImages/(?P<id>\S+)\.jpg\s+/?{AUG_MASKS}/(?P=id)\.png")


class DataError(UserError):
    """Invalid or missing files of a dataset; the message names the problem and, after a semicolon, the remedy.

    Args:
        problem: file, value and rule.
        remedy: what the user can do. Optional because torch rebuilds an exception of a loader process from its
            complete message.
    """

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(problem, remedy)

    def __str__(self) -> str:
        """Return problem and remedy in one line."""
        return "; ".join(part for part in self.args if part)


@dataclass(frozen=True)
class Pair:
    """Name and files of an image and its mask."""

    name: str
    image: Path
    mask: Path


def read_split(root: Path, split: str) -> list[Pair]:
    """Return the pairs of a split in the order of its list; all files exist.

    Args:
        root: folder that contains VOCdevkit/VOC2012, or that folder itself.
        split: name of a list in ImageSets/Segmentation, without .txt. Masks are in SegmentationClass, those of
            train_aug in SegmentationClassAug.

    Raises:
        DataError: if the tree, the list or a file is missing, or a line of the list is invalid.
    """
    tree = require_tree(root)
    return [pair_of_line(tree, split, number, line) for number, line in split_lines(tree, split)]


def split_lines(tree: Path, split: str) -> list[tuple[int, str]]:
    """Return line numbers (from 1) and texts of a split list, without blank lines.

    Raises:
        DataError: if the list is missing or empty.
    """
    folder = tree / SPLIT_LISTS
    known = sorted(path.stem for path in folder.glob("*.txt"))
    # This also rejects a split such as "../../x", which would leave the folder.
    if split not in known:
        listed = ", ".join(known) or "it contains none"
        remedy = "copy it from data/pascal of the paper's repository" if split == PAPERS_SPLIT else ""
        raise DataError(f"split (={split}) must be a list in {folder}: {listed}{nearest(split, known)}", remedy)
    path = folder / f"{split}.txt"
    # utf-8-sig drops the byte order mark that editors on Windows write.
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise DataError(f"{path} must list at least one image", "write one image name per line, or restore the file")
    return lines


def require_tree(root: Path) -> Path:
    """Return the folder that contains ImageSets/Segmentation: <root>/VOCdevkit/VOC2012, or `root` itself.

    Raises:
        DataError: if neither contains it; the message names the folder and how to get the data.
    """
    for tree in (root / TREE, root):
        if (tree / SPLIT_LISTS).is_dir():
            return tree
        if (tree / IMAGES).is_dir():
            problem = f"{tree} must contain {SPLIT_LISTS}/train.txt and val.txt next to {IMAGES}"
            raise DataError(problem, "list the images in them, one name without suffix per line")
    raise DataError(
        f"data.root (={root}) must contain VOC2012, but {(root / TREE / SPLIT_LISTS).absolute()} does not exist",
        "use data.download=true or `python scripts/prepare_voc.py download=true` to download it (2 GB), or "
        "data.root=<its folder>; `python train.py` without data=voc uses the built-in synthetic dataset",
    )


def pair_of_line(tree: Path, split: str, number: int, line: str) -> Pair:
    """Return image and mask of one line of a split list; both files exist.

    A line is an image id. In train_aug it may also be `/JPEGImages/<id>.jpg /SegmentationClassAug/<id>.png`, a
    common format of that list.

    Raises:
        DataError: if the line is invalid, or the image or the mask is missing; names the list and the line.
    """
    where = f"{tree / SPLIT_LISTS / split}.txt line {number}"
    masks = AUG_MASKS if split == AUG_SPLIT else "SegmentationClass"
    match = _AUG_LINE.fullmatch(line) if split == AUG_SPLIT else None
    name = match["id"] if match else line
    # Lists come from untrusted sources: an id must not leave the folders of images and masks.
    if not re.fullmatch(r"[\w.-]+", name) or ".." in name:
        text = textwrap.shorten(line if line.isprintable() else ascii(line), 60)
        problem = f"{where} (={text}) must be an image id such as 2007_000032, without folder or suffix"
        raise DataError(problem, "correct or delete the line")
    pair = Pair(name, image=find_image(tree, name), mask=tree / masks / f"{name}.png")
    for path in (pair.image, pair.mask):
        if not os.path.isfile(path):  # returns False without permission; Path.is_file would raise an error
            problem = f"{where} (={name}) must name an image and a mask, but {path} is missing or cannot be read"
            raise DataError(problem, "remove the suffix" if name.endswith(IMAGE_SUFFIXES) else _remedy(path))
    return pair


def find_image(tree: Path, name: str) -> Path:
    """Return the file of an image id; if none exists, the one with the first of `IMAGE_SUFFIXES`."""
    paths = [tree / IMAGES / f"{name}{suffix}" for suffix in IMAGE_SUFFIXES]
    return next((path for path in paths if os.path.isfile(path)), paths[0])


def _remedy(missing: Path) -> str:
    if missing.parent.name == AUG_MASKS and not missing.parent.is_dir():
        return f"copy the augmented masks (SBD) into {missing.parent}, or use data.train_split=train"
    return "restore the file or delete the line"


def read_pair(pair: Pair, num_classes: int) -> tuple[Tensor, Tensor]:
    """Return image, uint8 [3, H, W] RGB, and mask, uint8 [H, W], of one pair.

    Raises:
        DataError: if a file cannot be read, see `read_image` and `read_mask`, or the sizes differ.
    """
    image, mask = read_image(pair.image), read_mask(pair.mask, num_classes)
    if image.shape[1:] != mask.shape:
        problem = f"{pair.image} {tuple(image.shape[1:])} must have the size of {pair.mask} {tuple(mask.shape)}"
        raise DataError(problem, "restore both from the same archive")
    return image, mask


def read_image(path: Path) -> Tensor:
    """Return the stored pixels of an image file, uint8 [3, H, W] RGB, channels last in memory.

    Grey, palette and CMYK images are converted, an alpha channel is dropped, 16 bits are scaled down to 8. An
    EXIF orientation is not applied, because VOC's masks match the pixels as stored.

    Raises:
        DataError: if the file cannot be decoded, or contains floating-point pixels, whose range is unknown.
    """
    image = _decode(path)
    if image.mode == "F":
        raise DataError(f"{path} (mode F) must contain integer pixels", "save it as 8-bit RGB")
    return torch.from_numpy(np.array(to_rgb(image))).permute(2, 0, 1)


def read_mask(path: Path, num_classes: int) -> Tensor:
    """Return the palette indices of a mask file, uint8 [H, W]: classes 0 to num_classes - 1, and 255 for void.

    Raises:
        DataError: if the file cannot be decoded, is not a palette image, or contains another value.
    """
    image = _decode(path)
    # SegmentationClassAug is usually distributed as grey PNGs, whose grey value is the index. Anywhere else a grey
    # mask is the result of a conversion, and its values are unrelated to classes.
    allowed = ("P", "L") if path.parent.name == AUG_MASKS else ("P",)
    if image.mode not in allowed:
        problem = f"{path} (mode {image.mode}) must be a palette PNG (mode P), whose index is the class"
        raise DataError(problem, "restore VOC's original file; docs/tutorial.md shows how to convert other masks")
    mask = np.array(image)
    invalid = np.unique(mask[(mask >= num_classes) & (mask != IGNORE_INDEX)])
    if invalid.size:
        values = ", ".join(map(str, invalid[:5]))
        problem = f"{path} (values {values}) must contain only 0 to {num_classes - 1} and {IGNORE_INDEX}"
        raise DataError(problem, "list every class in data.classes, or restore the mask")
    return torch.from_numpy(mask)


def image_size(path: Path) -> Size:
    """Return height and width of an image file; reads only its header.

    Raises:
        DataError: if the file is not an image.
    """
    try:
        with Image.open(path) as image:
            return image.height, image.width
    except Exception as error:  # as in _decode
        raise _unreadable(path, error) from error


def _decode(path: Path) -> Image.Image:
    try:
        image = Image.open(path)
        with image:
            image.load()
    except Exception as error:  # PIL passes on errors of many codecs: OSError, SyntaxError, struct.error
        raise _unreadable(path, error) from error
    return image


def _unreadable(path: Path, error: Exception) -> DataError:
    problem = f"{path} must be a readable image: {decoding_problem(error)}"
    return DataError(problem, "restore it or remove it from the list")


def decoding_problem(error: Exception) -> str:
    """Describe why a file could not be decoded, without its name."""
    if isinstance(error, UnidentifiedImageError):
        return "unknown image format"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than {2 * (Image.MAX_IMAGE_PIXELS or 0):,} pixels"
    return " ".join(str(error).split()) or type(error).__name__


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to 8-bit RGB: 16 bits are scaled down, an alpha channel is dropped."""
    # PIL's own conversion clips 16 bits at 255, which makes such an image nearly white.
    if image.mode.startswith("I"):
        sixteen = np.asarray(image).astype(np.int64).clip(0, 65535)
        image = Image.fromarray((sixteen // 256).astype(np.uint8))
    # PIL warns if a palette with transparent entries goes to RGB at once.
    if image.mode == "P":
        image = image.convert("RGBA")
    return image.convert("RGB")

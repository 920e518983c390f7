"""Split lists: their text, and the images and masks that their lines name in the layout of VOC 2012.

Facts on VOC 2012: 1464 train and 1449 val images (2913 trainval) with masks of equal size, sides of at most 500 pixels.
21 classes with the background, in `fcn.config.VOC_CLASSES`; 255 is void, along the borders of objects and on
difficult ones. Masks are palette PNGs: the class is the palette index; the palette is for display only. The list
`train_aug` (10582 images, Hariharan et al. 2011) is not part of VOC.

Source: Everingham et al., "The Pascal Visual Object Classes Challenge", and the VOC2012 development kit.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from fcn.data.image_folders import ImageFolder, is_image_name
from fcn.errors import DataError, nearest

TREE = Path("VOCdevkit", "VOC2012")  # below a root, as VOC's own archive unpacks
IMAGES = "JPEGImages"
MASKS = "SegmentationClass"
IMAGE_SUFFIXES = (".jpg", ".JPG", ".jpeg", ".png")  # VOC uses the first; others are found by listing the folder
MASK_SUFFIXES = (".png",)
SPLIT_LISTS = Path("ImageSets", "Segmentation")
AUG_SPLIT = "train_aug"
AUG_MASKS = "SegmentationClassAug"
SBD_SPLIT = "sbd_train"
SBD_REMEDY = "create it with `python scripts/prepare_voc.py sbd=true`, or use data.train_split=train"

SHIPPED = {"seg11valid": Path(__file__).with_name("seg11valid.txt")}
"""Lists that are part of this package, for trees without a list of that name.

seg11valid: the 736 images of VOC 2011's val that are not in SBD's train (Long et al. 2015, footnote 7; the file
data/pascal/seg11valid.txt of BVLC/caffe's branch for that paper). All of them are in VOC 2012's val.
"""

_FOLDERS = r"[^/\\]+(?:/[^/\\]+)*"
_TWO_COLUMNS = re.compile(
    rf"/?(?P<images>{_FOLDERS})/(?P<name>[^/\\]+)(?P<image>\.\w+)\s+/?(?P<masks>{_FOLDERS})/(?P=name)(?P<mask>\.\w+)"
)


class MissingSplit(DataError):
    """A dataset has no split of that name."""


class MissingMask(DataError):
    """An image of a split has no mask, although the folder of the masks exists."""


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
        split: name of a list in ImageSets/Segmentation, without .txt.

    Raises:
        DataError: if the tree, the list or a file is missing, or a line of the list is invalid.
    """
    return [pair_of() for pair_of in split_entries(root, split)]


def split_entries(root: Path, split: str) -> list[Callable[[], Pair]]:
    """Return a function for each line of a split list, which returns its pair; see `read_split` and `SplitList.pair`.

    Raises:
        DataError: if the tree or the list is missing, or the list is empty or not text.
    """
    listed = open_split(require_tree(root), split)
    require_different([(listed.key(line), listed.place(number)) for number, line in listed.lines])
    return [partial(listed.pair, number, line) for number, line in listed.lines]


def open_split(tree: Path, split: str) -> SplitList:
    """Return the split list <tree>/ImageSets/Segmentation/<split>.txt.

    Raises:
        DataError: if the list is missing, empty or not text.
    """
    return SplitList(tree, find_list(tree / SPLIT_LISTS, split))


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


def find_list(folder: Path, split: str) -> Path:
    """Return the file of a split list: <folder>/<split>.txt, or the list of that name in `SHIPPED`.

    Raises:
        DataError: if there is none; the message names the lists in the folder.
    """
    known = sorted(path.stem for path in folder.glob("*.txt"))
    # This also rejects a split such as "../../x", which would leave the folder.
    if split in known:
        return folder / f"{split}.txt"
    if split in SHIPPED:
        return SHIPPED[split]
    listed = ", ".join(known) or "it contains none"
    remedy = SBD_REMEDY if split in (AUG_SPLIT, SBD_SPLIT) else ""
    raise MissingSplit(f"split (={split}) must be a list in {folder}: {listed}{nearest(split, known)}", remedy)


def read_lines(path: Path) -> list[tuple[int, str]]:
    """Return line numbers (from 1) and texts of a list, without blank lines and surrounding spaces.

    The list is in UTF-8, or in UTF-16 with the byte order mark that PowerShell and editors on Windows write.

    Raises:
        DataError: if the list cannot be read, is not text, or is empty.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} must be a readable text file: {error.strerror}", "restore it") from error
    # The codec utf-8-sig drops the byte order mark that editors on Windows write.
    codec = "utf-16" if content.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
    # Not str.splitlines: it also splits at characters that may be part of a file name, such as U+2028.
    lines = re.split(r"\r\n|\n|\r", content.decode(codec, errors="replace"))
    filled = [(number, line.strip()) for number, line in enumerate(lines, 1) if line.strip()]
    if not filled:
        raise DataError(f"{path} must list at least one image", "write one image name per line, or restore the file")
    for number, line in filled:
        if "\0" in line or "\ufffd" in line:
            rule = "must be text in UTF-8, or in UTF-16 with a byte order mark"
            raise DataError(f"{path} line {number} (={shorten(line)}) {rule}", "save the list in UTF-8")
    return filled


class SplitList:
    """A split list and the folders of its images and masks.

    A line is an image id: an image in JPEGImages and a mask in SegmentationClass, or in SegmentationClassAug if there
    is none in SegmentationClass. For the list train_aug, SegmentationClassAug is the first folder. A line may also name
    both files below the tree, as many published lists do: `JPEGImages/<id>.jpg SegmentationClass/<id>.png`.

    Args:
        tree: the folder VOC2012.
        path: the list.

    Attributes:
        lines: numbers and texts of the lines, see `read_lines`.

    Raises:
        DataError: if the list is empty or not text.
    """

    def __init__(self, tree: Path, path: Path) -> None:
        self.tree = tree
        self.path = path
        self.lines = read_lines(path)
        self._folders: dict[str, ImageFolder] = {}

    def pair(self, number: int, line: str) -> Pair:
        """Return image and mask of a line; both files exist.

        Raises:
            DataError: if the line is invalid, or the image or the mask is missing; names the list and the line.
        """
        name, image = self.image(number, line)
        columns = _TWO_COLUMNS.fullmatch(line)
        if columns:
            mask = self._find(columns["masks"], name, columns["mask"], *MASK_SUFFIXES)
        else:
            places = (AUG_MASKS, MASKS) if self.path.stem == AUG_SPLIT else (MASKS, AUG_MASKS)
            masks = (self._find(place, name, *MASK_SUFFIXES) for place in places)
            mask = next(filter(os.path.isfile, masks), self.tree / places[0] / f"{name}.png")
        for path in (image, mask):
            if not os.path.isfile(path):  # returns False without permission; Path.is_file would raise an error
                problem = f"must name an image and a mask, but {path} is missing or cannot be read"
                kind = (
                    MissingMask if path == mask and os.access(mask.parent, os.X_OK, effective_ids=True) else DataError
                )
                raise kind(f"{self.place(number)} (={shorten(name)}) {problem}", self._remedy(name, path))
        return Pair(name, image, mask)

    def image(self, number: int, line: str) -> tuple[str, Path]:
        """Return name and image of a line; the file need not exist.

        Raises:
            DataError: if the line is invalid; names the list and the line.
        """
        columns = _TWO_COLUMNS.fullmatch(line)
        # Lists come from untrusted sources: a line must not leave the folders of images and masks.
        names = [*columns["images"].split("/"), *columns["masks"].split("/"), columns["name"]] if columns else [line]
        if not all(map(is_image_name, names)):
            problem = f"{self.place(number)} (={shorten(line)}) must be an image id such as 2007_000032, or "
            columns_of = f"`{IMAGES}/<id>.jpg {MASKS}/<id>.png`"
            raise DataError(f"{problem}{columns_of}", "correct or delete the line")
        if columns:
            name = columns["name"]
            return name, self._find(columns["images"], name, columns["image"], *IMAGE_SUFFIXES)
        return line, self._find(IMAGES, line, *IMAGE_SUFFIXES)

    def key(self, line: str) -> str:
        """Return a text that is the same for lines that name the same image, also in the other format."""
        columns = _TWO_COLUMNS.fullmatch(line)
        if columns is None or columns["images"] == IMAGES:
            return columns["name"] if columns else line
        return f"{columns['images']}/{columns['name']}"

    def _find(self, folder: str, name: str, *suffixes: str) -> Path:
        images = self._folders.setdefault(folder, ImageFolder(self.tree / folder))
        return images.find(name, suffixes)

    def place(self, number: int) -> str:
        """Return list and line for a message."""
        return f"{self.path} line {number}"

    def _remedy(self, name: str, missing: Path) -> str:
        folder = missing.parent
        if name.endswith(IMAGE_SUFFIXES):
            return "remove the suffix"
        if not folder.is_dir():
            return self._remedy_of_folder(folder)
        if similar := self._folders[folder.relative_to(self.tree).as_posix()].similar(name):
            return f"the folder contains {similar[0]}; correct the name, or convert the file"
        return "restore the file or delete the line"

    def _remedy_of_folder(self, folder: Path) -> str:
        if folder.name == AUG_MASKS:
            return SBD_REMEDY
        others = sorted(path.name for path in folder.parent.glob(f"{folder.name[:8]}*") if path.is_dir())
        return f"rename {others[0]} to {folder.name}" if others else f"restore the folder {folder}"


def require_different(names: Sequence[tuple[str, str]]) -> None:
    """Check that no image is listed twice, which would count it twice.

    Args:
        names: names of the images, each with the list and the line.

    Raises:
        DataError: if two names are equal; names the lines.
    """
    places: dict[str, str] = {}
    for name, place in names:
        if name in places:
            first = places[name]
            raise DataError(
                f"{place} (={shorten(name)}) must be another image than {first}, because an image that is listed twice "
                "counts twice",
                "delete one of the lines",
            )
        places[name] = place


def shorten(line: str) -> str:
    """Return a line of a list for a message: at most 60 characters, without control characters."""
    text = line if line.isprintable() else ascii(line)
    return text if len(text) <= 60 else f"{text[:57]}..."

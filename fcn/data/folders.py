"""Datasets of two folders, images and masks: their splits, and the pairs of an image and a mask of the same name."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from fcn.data.divisions import normal_name, position
from fcn.data.image_folders import ImageFolder, image_suffixes, is_image_name
from fcn.data.split_lists import (
    IMAGE_SUFFIXES,
    MASK_SUFFIXES,
    SPLIT_LISTS,
    MissingMask,
    MissingSplit,
    Pair,
    read_lines,
    require_different,
    shorten,
)
from fcn.errors import DataError, nearest

TEST_FOLDER = "test"
"""Sub-folder of the images that `data.val_fraction` leaves out."""


@dataclass(frozen=True)
class PairFolders:
    """A folder of images beside a folder of masks. The name of a pair is its path in both, without suffix.

    A split is a list <split>.txt in the root or in ImageSets/Segmentation, or a sub-folder of the images.

    With `val_fraction`, the images of the training split are divided. If there is no such list or sub-folder, these are
    all images, except those in another list or in the sub-folder `test`. Whether an image is used for validation
    depends only on its name and the seed, so that it stays where it is when images are added.

    Attributes:
        root: folder that contains both.
        images: name of the folder of images.
        masks: name of the folder of masks.
        train_split: name of the training split.
        val_split: name of the validation split.
        val_fraction: share of the training images that are used for validation; None if there are two splits.
        seed: seed of the division.
        has_folds: whether the training images are divided into folds; they may then be all images, as above.
    """

    root: Path
    images: str
    masks: str
    train_split: str
    val_split: str
    val_fraction: float | None = None
    seed: int = 0
    has_folds: bool = False
    _folders: dict[Path, ImageFolder] = field(default_factory=dict, compare=False, repr=False)

    def entries(self, split: str) -> list[Callable[[], Pair]]:
        """Return a function for every image of a split, which returns its pair or raises DataError.

        Raises:
            DataError: if a folder or the split is missing or empty.
        """
        for key, name in (("images", self.images), ("masks", self.masks)):
            self._require_folder(key, name)
        if self.has_folds and split == self.train_split:
            return [partial(self._pair, name, where) for name, where in self._pool()]
        if self.val_fraction is None or split not in (self.train_split, self.val_split):
            return [partial(self._pair, name, where) for name, where in self._names(split)]
        if self._exists(self.val_split):
            raise DataError(
                f"data.val_fraction (={self.val_fraction}) must be null, because {self.root} has the split "
                f"{self.val_split}",
                "omit data.val_fraction, or use another data.val_split",
            )
        part = [(name, where) for name, where in self._pool() if self._validates(name) is (split == self.val_split)]
        if not part:
            raise MissingSplit(
                f"data.val_fraction (={self.val_fraction}) must leave images for training and validation, but none of "
                f"{self.root / self.images} is in {split}",
                "use another fraction or data.split_seed",
            )
        return [partial(self._pair, name, where) for name, where in part]

    def _require_folder(self, key: str, name: str) -> None:
        if (self.root / name).is_dir():
            return
        if not self.root.is_dir():
            raise DataError(f"data.root (={self.root}) must be a folder that contains {self.images} and {self.masks}")
        others = sorted(path.name for path in self.root.iterdir() if path.is_dir() and not path.name.startswith("."))
        listed = ", ".join(others) or "no folder"
        raise DataError(
            f"data.{key} (={name}) must be a folder in {self.root}, which contains {listed}{nearest(name, others)}",
            f"use data.{key}=<its name>",
        )

    def _pool(self) -> list[tuple[str, str]]:
        if self._exists(self.train_split):
            return self._names(self.train_split)
        folder = self.root / self.images
        names = _image_names(folder, folder)
        held_out = self._held_out()
        if held_out.issuperset(map(normal_name, names)):
            raise DataError(
                f"data.train_split (={self.train_split}) must leave images to divide, but all images of {folder} are "
                "in other splits",
                "use data.train_split=<the list to divide>",
            )
        return [(name, str(folder)) for name in names if normal_name(name) not in held_out]

    def _held_out(self) -> set[str]:
        """Return the names of the images in other splits, usually of the test set; lists of other text name none."""
        lists = [path for folder in (self.root, self.root / SPLIT_LISTS) for path in sorted(folder.glob("*.txt"))]
        listed = {normal_name(self._name_of(line)) for path in lists for line in _lines_of(path)}
        folder = self.root / self.images
        files = _files_below(folder / TEST_FOLDER)
        return listed | {normal_name(path.relative_to(folder).with_suffix("").as_posix()) for path in files}

    def _validates(self, name: str) -> bool:
        assert self.val_fraction is not None
        return position(name, self.seed) < self.val_fraction

    def _exists(self, split: str) -> bool:
        return any(path.is_file() for path in self._lists(split)) or (self.root / self.images / split).is_dir()

    def _lists(self, split: str) -> list[Path]:
        return [folder / f"{split}.txt" for folder in (self.root, self.root / SPLIT_LISTS)]

    def _names(self, split: str) -> list[tuple[str, str]]:
        """Return the names of a split, each with the place that lists it.

        Raises:
            DataError: if there is no such split, or its list is invalid.
        """
        if not is_image_name(split) or not self._exists(split):
            raise self._missing_split(split)
        path = next((path for path in self._lists(split) if path.is_file()), None)
        if path is None:
            folder = self.root / self.images
            return [(name, str(folder / split)) for name in _image_names(folder / split, folder)]
        places = [(line, f"{path} line {number}") for number, line in read_lines(path)]
        names = [(self._listed_name(line, where), where) for line, where in places]
        require_different(names)
        return names

    def _listed_name(self, line: str, where: str) -> str:
        # Lists come from untrusted sources: a line must not leave the folders of images and masks.
        if not all(map(is_image_name, line.split("/"))):
            problem = f"{where} (={shorten(line)}) must be the name of an image in {self.images}, such as photo_1"
            raise DataError(problem, "correct or delete the line")
        return self._name_of(line)

    def _name_of(self, line: str) -> str:
        """Return the name that a line stands for: the line, or without suffix if that is one of an image."""
        path = Path(line)
        if path.suffix.lower() not in image_suffixes() or os.path.isfile(self._find(self.images, line, IMAGE_SUFFIXES)):
            return line
        return path.with_suffix("").as_posix()

    def _missing_split(self, split: str) -> MissingSplit:
        lists = {path.stem for folder in (self.root, self.root / SPLIT_LISTS) for path in folder.glob("*.txt")}
        folders = {path.name for path in (self.root / self.images).iterdir() if path.is_dir()}
        known = sorted(lists | folders)
        listed = f"lists and sub-folders: {', '.join(known)}" if known else "there is neither"
        return MissingSplit(
            f"split (={split}) must be a list {self.root / split}.txt or a sub-folder {split} of "
            f"{self.root / self.images}; {listed}{nearest(split, known)}",
            "use data.val_fraction=0.2 to divide all images",
        )

    def _pair(self, name: str, where: str) -> Pair:
        image = self._find(self.images, name, IMAGE_SUFFIXES)
        mask = self._find(self.masks, name, MASK_SUFFIXES)
        for path in (image, mask):
            if not os.path.isfile(path):
                problem = f"{where} (={shorten(name)}) must have an image and a mask, but {path.with_suffix('.*')} is "
                # A folder that must not be read says nothing about its masks; a missing one has none.
                hidden = mask.parent.is_dir() and not os.access(mask.parent, os.X_OK, effective_ids=True)
                kind = MissingMask if path == mask and not hidden else DataError
                raise kind(f"{problem}missing or cannot be read", "add the file, or remove the other one")
        if image == mask:
            problem = f"{where} (={shorten(name)}) must have an image and a mask, but {image} is both"
            raise DataError(problem, "use data.masks=<the folder of the masks>")
        return Pair(name, image, mask)

    def _find(self, folder: str, name: str, suffixes: tuple[str, ...]) -> Path:
        path = self.root / folder / name
        images = self._folders.setdefault(path.parent, ImageFolder(path.parent))
        return images.find(path.name, suffixes)


def _lines_of(path: Path) -> list[str]:
    """Return the lines of a text file that may be a list, without those that are no name of an image."""
    try:
        lines = [line for _, line in read_lines(path)]
    except DataError:  # empty or in another encoding: not a list
        return []
    return [line for line in lines if all(map(is_image_name, line.split("/")))]


def _image_names(folder: Path, base: Path) -> list[str]:
    """Return the paths below `base`, without suffix, of the image files in a folder and its sub-folders, sorted.

    Raises:
        DataError: if the folder has no image, or two images have the same name.
    """
    files: dict[str, Path] = {}
    for path in _files_below(folder):
        name = path.relative_to(base).with_suffix("").as_posix()
        if name in files:
            raise DataError(f"{files[name]} and {path.name} must have different names", "remove or rename one of them")
        files[name] = path
    if not files:
        raise DataError(f"{folder} must contain at least one image", "add images, or use data.images=<their folder>")
    return sorted(files)


def _files_below(folder: Path) -> Iterator[Path]:
    """Yield the image files in a folder and its sub-folders that are not hidden."""
    for top, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            if not name.startswith(".") and Path(name).suffix.lower() in image_suffixes():
                yield Path(top, name)

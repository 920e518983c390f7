"""Options of the group `data`: the datasets with their own keys and defaults."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from fcn.config import IGNORE_INDEX, AugmentationConfig, Config, ConfigError, DataConfig, component, nearest, setting
from fcn.config.choices import Exif, MaskFormat

if TYPE_CHECKING:  # these import torch, which --help and completion do not need
    from fcn.data.pair_reader import PairReader
    from fcn.data.split_lists import Pair

SHAPES_CLASSES = ["background", "disc", "square", "triangle", "star", "cross"]
HIGHEST_VALUES = {MaskFormat.palette: 255, MaskFormat.index: 65535, MaskFormat.rgb: 255}
"""Largest value that a mask of a format contains."""
IGNORE = "ignore"
"""Value of data.label_map that stands for void."""


@dataclass(kw_only=True, slots=True)
class ShapesConfig:
    """Size and seed of the built-in synthetic dataset (`data=shapes`)."""

    num_train: int = setting(400, "number of training images", low=1)
    num_val: int = setting(80, "number of validation images", low=1)
    seed: int = setting(0, "seed of the images, independent of the seed of the run", low=0)


@component("data", "shapes")
class ShapesData(DataConfig):
    """Built-in synthetic dataset, written to data/shapes in a few seconds; see fcn/data/shapes.py."""

    classes: list[str] = setting(SHAPES_CLASSES, "class names in the order of the mask indices; 0 is the background")
    crop_size: list[int] = setting([96, 96], "height and width of the training crop in pixels", low=1)
    augmentation: AugmentationConfig = field(default_factory=lambda: AugmentationConfig(flip=0.5))
    shapes: ShapesConfig = field(default_factory=ShapesConfig)

    def check(self, config: Config) -> None:
        if self.classes != SHAPES_CLASSES:
            raise ConfigError(
                f"data.classes must be those of the synthetic dataset under data=shapes: {SHAPES_CLASSES}; use "
                "data=voc for your own images"
            )

    def locate(self, *, prepare: bool) -> Path:
        from fcn.data.shapes import ensure_shapes
        from fcn.errors import DataError

        root, size = Path(self.root), self.shapes
        options = {"num_train": size.num_train, "num_val": size.num_val, "seed": size.seed}
        try:
            return ensure_shapes(root / "shapes", **options)
        except OSError as error:
            problem = f"data.root (={root}) must be a folder to which the dataset can be written: {error.strerror}"
            raise DataError(problem, "use data.root=<a writable folder with 10 MB free>") from error


@dataclass(kw_only=True)
class FilesConfig(DataConfig):
    """Dataset of image files and mask files: how the files are read."""

    mask_format: MaskFormat = setting(
        MaskFormat.palette,
        "what gives the class of a pixel in the file of a mask; palette: the palette index; index: the grey value (1, "
        "8 or 16 bits); rgb: the colour, see data.colors",
    )
    label_map: dict[int, str] = setting(
        {},
        "classes that values in the masks stand for, as {255: 1, 0: ignore}: the index or name of a class, or ignore "
        "(void); other values are kept, but an index to whose class another value is mapped must be mapped too",
    )
    colors: list[list[int]] = setting(
        [],
        "RGB colour of each class under data.mask_format=rgb, in the order of data.classes; further colours are void",
        low=0,
        high=255,
    )
    exif: Exif | None = setting(
        None,
        "EXIF orientation of images; apply: turn them upright, if the masks were drawn on upright images; ignore: read "
        "them as stored; null: ignore, with a warning if an image has one",
    )
    extra_roots: list[str] = setting(
        [], "more folders like data.root, whose images are added; a folder may lack one of the splits"
    )

    def check(self, config: Config) -> None:
        self._check_colors()
        self._check_extra_roots()
        labels = self._labels()
        if labels and self.mask_format is MaskFormat.rgb:
            raise ConfigError("data.label_map must be empty with data.mask_format=rgb; use data.colors")
        highest = HIGHEST_VALUES[self.mask_format]
        if any(not 0 <= value <= highest for value in labels):
            raise ConfigError(
                f"data.label_map (={self.label_map}) must map values from 0 to {highest} with "
                f"data.mask_format={self.mask_format}"
            )

    def _check_extra_roots(self) -> None:
        # VOC's folders may be named by data.root or by the folder that contains them.
        folders = [_dataset_folder(Path(root)) for root in (self.root, *self.extra_roots)]
        if repeated := [folder for folder in folders if folders.count(folder) > 1]:
            raise ConfigError(
                f"data.extra_roots (={self.extra_roots}) must be other folders than data.root and each other, but "
                f"{repeated[0]} is named twice; leave it out once"
            )
        names = [Path(root).resolve().name for root in self.extra_roots]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ConfigError(
                f"data.extra_roots (={self.extra_roots}) must be folders of different names, because names of images "
                f"begin with them; rename one of the folders {twice[0]}"
            )

    def reader(self) -> PairReader:
        from fcn.data.mask_formats import MaskReader
        from fcn.data.pair_reader import PairReader

        masks = MaskReader(
            len(self.classes),
            self.mask_format,
            label_map=tuple(sorted(self._labels().items())),
            colors=tuple((red, green, blue) for red, green, blue in self.colors),
        )
        return PairReader(masks, upright=self.exif is Exif.apply)

    def _labels(self) -> dict[int, int]:
        """Return the index of a class, or 255, for every value in `label_map`."""
        labels = {}
        for value, label in self.label_map.items():
            name = str(label)
            if name == IGNORE or name == str(IGNORE_INDEX):
                labels[value] = IGNORE_INDEX
            elif name in self.classes:
                labels[value] = self.classes.index(name)
            elif name.isdecimal() and int(name) < len(self.classes):
                labels[value] = int(name)
            else:
                raise ConfigError(
                    f"data.label_map.{value} (={name}) must be ignore, the name of a class, or its index from 0 to "
                    f"{len(self.classes) - 1}{nearest(name, [*self.classes, IGNORE])}"
                )
        return labels

    def _check_colors(self) -> None:
        if self.mask_format is not MaskFormat.rgb:
            if self.colors:
                raise ConfigError("data.colors has no effect without data.mask_format=rgb; leave one out, or set both")
            return
        if len(self.colors) < len(self.classes) or any(len(color) != 3 for color in self.colors):
            raise ConfigError(
                f"data.colors (={self.colors}) must have three numbers for each of the "
                f"{len(self.classes)} classes; use 'data.colors=[[0,0,0],[128,0,0],...]'"
            )
        if twice := [color for color in self.colors if self.colors.count(color) > 1]:
            raise ConfigError(f"data.colors must be different colours; {twice[0]} occurs more than once")


def _dataset_folder(root: Path) -> Path:
    """Return the folder of a dataset without links, for VOC's layout the folder VOC2012."""
    tree = root / "VOCdevkit" / "VOC2012"
    return (tree if tree.is_dir() else root).resolve()


@component("data", "voc")
class VocData(FilesConfig):
    """Pascal VOC 2012, or another dataset in its layout."""

    download: bool = setting(False, "download VOC2012 (2 GB) into data.root if it is missing")
    augmentation: AugmentationConfig = field(default_factory=lambda: AugmentationConfig(scale=[0.5, 2.0], flip=0.5))

    def locate(self, *, prepare: bool) -> Path:
        from fcn.data.download import download

        root = Path(self.root)
        if prepare and self.download:
            download(root)
        return root

    def entries(self, root: Path, split: str) -> Sequence[Callable[[], Pair]]:
        from fcn.data.image_sets import combined_entries
        from fcn.data.split_lists import split_entries

        splits = (self.train_split, self.val_split)
        return combined_entries([root, *self.extra_roots], split_entries, split, others=splits)


@component("data", "folders")
class FoldersData(FilesConfig):
    """Images and masks of your own in two folders, with lists or sub-folders for the splits, or a random division."""

    classes: list[str] = setting([], "class names in the order of the mask indices; 0 is the background; required")
    images: str = setting("images", "name of the folder of images in data.root")
    masks: str = setting("masks", "name of the folder of masks in data.root; a mask has the name of its image")
    val_fraction: float | None = setting(
        None,
        "share of the training images that validate instead, chosen by their names; null: data.val_split is a list or "
        "a sub-folder of images",
        low=0,
        high=1,
    )
    augmentation: AugmentationConfig = field(default_factory=lambda: AugmentationConfig(scale=[0.5, 2.0], flip=0.5))

    def check(self, config: Config) -> None:
        super().check(config)
        if self.val_fraction in (0, 1):
            raise ConfigError(f"data.val_fraction (={self.val_fraction}) must be between 0 and 1, such as 0.2")
        if self.val_fraction is not None and self.train_split == self.val_split:
            raise ConfigError(f"data.train_split and data.val_split (={self.val_split}) must differ")
        if self.val_fraction is not None and self.fold is not None:
            raise ConfigError(
                f"data.val_fraction (={self.val_fraction}) must be null with data.fold (={self.fold}), because both "
                "divide data.train_split; leave one out"
            )
        for key in ("train_split", "val_split"):
            name = getattr(self, key)
            if name in ("", ".", "..") or "/" in name or "\\" in name:
                raise ConfigError(f"data.{key} (={name!r}) must be the name of a list or of a sub-folder, such as val")
        for key in ("images", "masks"):
            name = getattr(self, key)
            if not name or Path(name).is_absolute() or ".." in Path(name).parts:
                raise ConfigError(f"data.{key} (={name!r}) must be the name of a folder in data.root")

    def entries(self, root: Path, split: str) -> Sequence[Callable[[], Pair]]:
        from fcn.data.folders import PairFolders
        from fcn.data.image_sets import combined_entries

        def entries_of(folder: Path, name: str) -> list[Callable[[], Pair]]:
            return PairFolders(
                root=folder,
                images=self.images,
                masks=self.masks,
                train_split=self.train_split,
                val_split=self.val_split,
                val_fraction=self.val_fraction,
                seed=self.split_seed,
                has_folds=self.fold is not None,
            ).entries(name)

        splits = (self.train_split, self.val_split)
        return combined_entries([root, *self.extra_roots], entries_of, split, others=splits)

"""Input images of a prediction: a file, a folder, a glob or a split list of VOC; reading of image files."""

from __future__ import annotations

import glob
import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fcn.config import ConfigError
from fcn.data.image_decoding import read_image
from fcn.data.image_folders import image_suffixes
from fcn.data.split_lists import SPLIT_LISTS, SplitList


@dataclass(frozen=True)
class Source:
    """An image to predict.

    Attributes:
        path: the file, which may not be an image.
        name: path of its predictions below the output folder, without suffix, such as `holiday/beach`.
    """

    path: Path
    name: str


def find_sources(text: str, output: Path) -> list[Source]:
    """Return the images of a file, a folder and its subfolders, a glob (also with `**`), or a split list of VOC.

    A folder or a glob yields the visible files with the suffix of an image, sorted by path. Predictions of an earlier
    call, in an output folder inside the input folder, are left out.

    Args:
        text: value of the key `input`.
        output: folder that will receive the predictions.

    Raises:
        ConfigError: if there is no image.
        DataError: if a split list contains a line that is not an image id.
        OSError: if a folder cannot be read.
    """
    path = Path(text)
    if path.is_dir():
        sources = _images_below(path, _visible_files(path), output)
    elif path.is_file():
        sources = _listed_images(path) if path.suffix == ".txt" else [Source(path, path.stem)]
    elif glob.has_magic(text):
        # Without "..", because a name could otherwise lead out of the output folder.
        pattern = os.path.normpath(text)
        fixed = itertools.takewhile(lambda part: not glob.has_magic(part), Path(pattern).parts)
        sources = _images_below(Path(*fixed), map(Path, glob.iglob(pattern, recursive=True)), output)
    else:
        raise ConfigError(f"input (={text}) must be an image, a folder, a glob or a split list; there is no such file")
    if not sources:
        raise ConfigError(f"input (={text}) must contain at least one image")
    return sources


def _visible_files(top: Path) -> Iterator[Path]:
    """Yield the files below a folder that are not hidden; links to folders are followed, except to parent folders."""

    def fail(error: OSError) -> None:
        raise error  # by default os.walk skips a folder that cannot be read

    for folder, folders, files in os.walk(top, onerror=fail, followlinks=True):
        outers = [outer.resolve() for outer in (Path(folder), *Path(folder).parents)]
        targets = {name: Path(folder, name).resolve() for name in folders if not name.startswith(".")}
        folders[:] = [name for name, target in targets.items() if not any(o.is_relative_to(target) for o in outers)]
        yield from (Path(folder, name) for name in files if not name.startswith("."))


def _images_below(base: Path, paths: Iterable[Path], output: Path) -> list[Source]:
    """Return the image files among `paths`, which lie below `base`, sorted; without those inside `output`."""
    excluded = output.resolve() if base.resolve() in output.resolve().parents else None
    images = {path for path in paths if path.suffix.lower() in image_suffixes() and path.is_file()}
    included = sorted(path for path in images if excluded not in path.resolve().parents)
    return [Source(path, path.relative_to(base).with_suffix("").as_posix()) for path in included]


def _listed_images(path: Path) -> list[Source]:
    """Return the images of a list in ImageSets/Segmentation, in its order; masks are not required."""
    folder = path.absolute().parent
    if folder.parts[-2:] != SPLIT_LISTS.parts:
        raise ConfigError(
            f"input (={path}) must be a split list in {SPLIT_LISTS}, next to JPEGImages; "
            "use a folder or a glob for other images"
        )
    listed = SplitList(folder.parent.parent, path)
    images = (listed.image(number, line) for number, line in listed.lines)
    return [Source(image, name) for name, image in images]


def read_pixels(path: Path, *, upright: bool = True) -> NDArray[np.uint8]:
    """Return the pixels of the first frame of an image file, uint8 [H, W, 3] in RGB.

    Args:
        path: the file.
        upright: whether the EXIF orientation is applied.

    Raises:
        DataError: as `fcn.data.image_decoding.read_image`.
    """
    pixels: NDArray[np.uint8] = read_image(path, upright=upright).permute(1, 2, 0).numpy()
    return pixels

"""Input images of prediction: a file, a folder, a glob or a split list of VOC; and their decoding."""

from __future__ import annotations

import glob
import itertools
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from fcn.config import ConfigError
from fcn.data.voc import SPLIT_LISTS, DataError, decoding_problem, find_image
from fcn.inference.predictor import to_pixels

IDENTIFIED_ONLY = {"BUFR", "GRIB", "HDF5", "MPEG"}
"""Formats that Pillow names but cannot decode (its documentation, "Identify-only formats")."""


@dataclass(frozen=True)
class Source:
    """An image to predict.

    Attributes:
        path: the file, which may turn out to be no image.
        name: of its outputs below the output folder, without suffix: `holiday/beach`.
    """

    path: Path
    name: str


def find_sources(text: str, output: Path) -> list[Source]:
    """Images that `text` names: a file, a folder and all below it, a glob with `**`, or a split list of VOC.

    Of a folder and a glob those files are taken that have a suffix of an image and are not hidden, sorted by path.
    What an earlier call has written to an output folder inside of them is left out.

    Args:
        text: as typed.
        output: folder that will receive the predictions.

    Raises:
        ConfigError: if there is no image.
        DataError: if a split list holds anything but image ids.
        OSError: if a folder cannot be read.
    """
    path = Path(text)
    if path.is_dir():
        sources = _below(path, _walk(path), output)
    elif path.is_file():
        sources = _listed(path) if path.suffix == ".txt" else [Source(path, path.stem)]
    elif glob.has_magic(text):
        # Without "..", after which a name could lead out of the output folder.
        pattern = os.path.normpath(text)
        fixed = itertools.takewhile(lambda part: not glob.has_magic(part), Path(pattern).parts)
        sources = _below(Path(*fixed), map(Path, glob.iglob(pattern, recursive=True)), output)
    else:
        raise ConfigError(f"input (={text}) must be an image, a folder, a glob or a split list; there is no such file")
    if not sources:
        raise ConfigError(f"input (={text}) must name at least one image; none was found in it")
    return sources


@cache
def image_suffixes() -> frozenset[str]:
    """Suffixes of the formats that Pillow decodes, in lower case with the dot."""
    formats = Image.registered_extensions()  # imports Pillow's plugins, so that Image.OPEN is complete
    return frozenset(suffix for suffix, name in formats.items() if name in Image.OPEN and name not in IDENTIFIED_ONLY)


def _walk(top: Path) -> Iterator[Path]:
    """Files below `top` that are not hidden. Follows links to folders, but to none that it is in already."""

    def refuse(error: OSError) -> None:
        raise error  # os.walk would leave the folder out in silence

    for folder, folders, files in os.walk(top, onerror=refuse, followlinks=True):
        around = {outer.resolve() for outer in (Path(folder), *Path(folder).parents)}
        visible = [name for name in folders if not name.startswith(".")]
        folders[:] = [name for name in visible if not _holds_any(Path(folder, name), around)]
        yield from (Path(folder, name) for name in files if not name.startswith("."))


def _holds_any(folder: Path, others: Iterable[Path]) -> bool:
    """Whether `folder`, its links resolved, is one of `others` or above one of them."""
    place = folder.resolve()
    return any(other.is_relative_to(place) for other in others)


def _below(base: Path, paths: Iterable[Path], output: Path) -> list[Source]:
    """Sources for the image files among `paths`, which lie below `base`, sorted; without those inside `output`."""
    own = output.resolve() if base.resolve() in output.resolve().parents else None
    images = {path for path in paths if path.suffix.lower() in image_suffixes() and path.is_file()}
    chosen = sorted(path for path in images if own is None or own not in path.resolve().parents)
    return [Source(path, path.relative_to(base).with_suffix("").as_posix()) for path in chosen]


def _listed(path: Path) -> list[Source]:
    """Sources for the ids of a list in ImageSets/Segmentation, in its order; the test set has images but no masks."""
    folder = path.absolute().parent
    if folder.parts[-2:] != SPLIT_LISTS.parts:
        raise ConfigError(
            f"input (={path}) must be a split list in {SPLIT_LISTS}, beside which lies JPEGImages; "
            "name other images by a folder or a glob"
        )
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    sources = []
    for number, name in enumerate(map(str.strip, lines), 1):
        if name and (not re.fullmatch(r"[\w.-]+", name) or ".." in name):
            raise DataError(f"{path} line {number} (={name}) must be an image id such as 2007_000032", "correct it")
        if name:
            sources.append(Source(find_image(folder.parent.parent, name), name))
    return sources


def read_upright(path: Path) -> NDArray[np.uint8]:
    """An image file as viewers show it, uint8 [H, W, 3] in RGB: the first frame, turned as its EXIF data say.

    Unlike `fcn.data.voc.read_image`, because nobody wants the mask of a photo that lies on its side; VOC's images
    have no orientation, so for them both are the same.

    Raises:
        DataError: if the file cannot be decoded, or holds floating-point pixels.
    """
    try:
        with Image.open(path) as image:
            return to_pixels(ImageOps.exif_transpose(image))
    except Exception as error:  # PIL lets errors of many codecs through: OSError, SyntaxError, struct.error
        raise DataError(f"{path} must be a readable image: {decoding_problem(error)}") from error

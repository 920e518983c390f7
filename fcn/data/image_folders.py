"""Names of image files without suffix, and the files of a folder that they name."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from functools import cache, cached_property
from pathlib import Path

from PIL import Image

IDENTIFIED_ONLY = {"BUFR", "GRIB", "HDF5", "MPEG"}
"""Formats that Pillow identifies but does not decode ("Identify-only formats" in its documentation)."""


def is_image_name(name: str) -> bool:
    """Whether a name can be that of an image without its suffix: without separator and control characters.

    Lists come from untrusted sources: a name must not leave the folders of images and masks.
    """
    is_plain = not any(character in "/\\" or unicodedata.category(character) == "Cc" for character in name)
    return is_plain and name not in ("", ".", "..")


@cache
def image_suffixes() -> frozenset[str]:
    """Return the suffixes of the formats that Pillow decodes, in lower case with the dot."""
    formats = Image.registered_extensions()  # imports Pillow's plugins, which completes Image.OPEN
    return frozenset(suffix for suffix, name in formats.items() if name in Image.OPEN and name not in IDENTIFIED_ONLY)


class ImageFolder:
    """The image files of a folder by their names without suffix.

    A name matches whatever the case of the file's suffix, and in either normal form of Unicode: macOS and archives
    made there decompose letters such as `ü`, which a list may contain as one character.

    Args:
        path: the folder; it may be missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def find(self, name: str, suffixes: Sequence[str]) -> Path:
        """Return the file of an image name; if there is none, a path that does not exist, with the first suffix.

        Args:
            name: name without suffix, see `is_image_name`.
            suffixes: suffixes that are preferred, in this order. Only if no file has one of them, the folder is listed,
                and any suffix matches that Pillow can read.
        """
        paths = [self.path / f"{name}{suffix}" for suffix in suffixes]
        # Path.is_file would raise an error without permission.
        exact = next((path for path in paths if os.path.isfile(path)), None)
        return exact or self._images.get(_key(name), paths[0])

    def similar(self, name: str) -> list[str]:
        """Return the files that may be meant by a name without image, such as one of another case or format."""
        candidates = (name, Path(name).stem, *name.split()[:1])
        return next((files for each in candidates if (files := self._files.get(_key(each).casefold()))), [])

    @cached_property
    def _images(self) -> dict[str, Path]:
        files = (self.path / file for files in self._files.values() for file in files)
        images = [path for path in files if path.suffix.lower() in image_suffixes()]
        return {_key(path.stem): path for path in reversed(images)}

    @cached_property
    def _files(self) -> dict[str, list[str]]:
        """Names of the files of the folder, sorted, by their names without suffix."""
        try:
            names = sorted(name for name in os.listdir(self.path) if os.path.isfile(self.path / name))
        except OSError:  # missing, or not permitted: the message about the missing file says so
            names = []
        files: dict[str, list[str]] = {}
        for name in names:
            files.setdefault(_key(Path(name).stem).casefold(), []).append(name)
        return files


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name).strip()

"""Fingerprint of a dataset: detects a different list of images or a different version of the files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

from fcn.data.split_lists import Pair


def fingerprint(pairs: Iterable[Pair], reading: str = "") -> dict[str, Any]:
    """Return the number of images and a hash of their names, in order, and of the sizes of their files.

    The hash is the sha256 of a line `<name> <bytes of the image> <bytes of the mask>` per image. It does not depend on
    the location of the files. No file is read, so changes of pixels that keep the file size are not detected.

    Args:
        pairs: images and masks of the set.
        reading: `PairReader.identity`, which is a line of its own unless it is empty.
    """
    lines = [f"{pair.name} {pair.image.stat().st_size} {pair.mask.stat().st_size}\n" for pair in pairs]
    text = "".join([*lines, f"{reading}\n" if reading else ""])
    return {"images": len(lines), "sha256": hashlib.sha256(text.encode()).hexdigest()}

"""Random divisions of a set of images by their names and a seed: a share for validation, or folds."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Sequence


def normal_name(name: str) -> str:
    """Return a name with composed letters; macOS decomposes letters in file names."""
    return unicodedata.normalize("NFC", name)


def position(name: str, seed: int) -> float:
    """Return the random position of an image, uniform in [0, 1): a function of its name and the seed."""
    digest = hashlib.sha256(f"{seed} {normal_name(name)}".encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def fold_numbers(names: Sequence[str], *, folds: int, seed: int) -> list[int]:
    """Return the fold of every image, from 0.

    Images in the order of their positions are divided into consecutive parts whose sizes differ by at most one. The
    folds do not depend on the order of the names. New images move only images near the ends of a part.
    """
    order = sorted(range(len(names)), key=lambda index: position(names[index], seed))
    numbers = [0] * len(names)
    for place, index in enumerate(order):
        numbers[index] = place * folds // len(names)
    return numbers

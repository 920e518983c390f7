"""Facts on the masks and images of a set, counted while its files are decoded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fcn.config import IGNORE_INDEX

Counts = NDArray[np.int64]
COLUMNS = 3
"""Columns of `SetFacts.table` besides the classes."""


@dataclass(frozen=True)
class FileFacts:
    """Facts on one image and its mask.

    Attributes:
        counts: pixels of every class and, last, of void, int64 [classes + 1].
        orientation: EXIF orientation of the image, 1 to 8; 1 is upright.
        palette: colours of the mask's palette, three bytes each; empty without a palette.
        indices: palette indices that the mask contains.
    """

    counts: Counts
    orientation: int
    palette: bytes = b""
    indices: tuple[int, ...] = ()


@dataclass(frozen=True)
class SetFacts:
    """Facts on the images of a set.

    Attributes:
        table: int64 [images, classes + 3]: the pixels of every class and of void, the EXIF orientation, and 1 if the
            palette of the mask has colours of the other masks at other indices, else 0.
    """

    table: Counts

    @property
    def counts(self) -> Counts:
        """Pixels of every class and, last, of void, int64 [images, classes + 1]."""
        return self.table[:, :-2]

    @property
    def orientations(self) -> Counts:
        """EXIF orientations, int64 [images]."""
        return self.table[:, -2]

    @property
    def has_other_palette(self) -> NDArray[np.bool_]:
        """Whether the palette of a mask has colours of the other masks at other indices, [images]."""
        return self.table[:, -1] > 0

    def select(self, indices: Sequence[int]) -> SetFacts:
        """Return the facts on a subset of the images."""
        return SetFacts(self.table[list(indices)])


def combine_facts(files: Sequence[FileFacts], num_classes: int) -> SetFacts:
    """Return the facts on a set from those on its files, and compare the palettes of its masks."""
    table = np.ones((len(files), num_classes + COLUMNS), np.int64)
    for row, facts in zip(table, files, strict=True):
        row[:-2], row[-2] = facts.counts, facts.orientation
    table[:, -1] = _have_other_palettes(files)
    return SetFacts(table)


def mask_counts(mask: Tensor, num_classes: int) -> Counts:
    """Return the pixels of every class and, last, of void, int64 [classes + 1].

    Args:
        mask: classes and 255 for void, uint8 [H, W].
        num_classes: number of classes.
    """
    counts = np.bincount(mask.numpy().ravel(), minlength=IGNORE_INDEX + 1)
    return np.append(counts[:num_classes], counts[IGNORE_INDEX])


def _have_other_palettes(files: Sequence[FileFacts]) -> list[bool]:
    """Return for each mask whether one of its indices has a colour that most masks have at another index.

    An editor that saves a mask again may order the palette anew: the picture stays the same, the indices do not.
    """
    votes: dict[int, Counter[bytes]] = {}
    for palette, number in Counter(facts.palette for facts in files).items():
        for index, color in enumerate(_colors(palette)):
            votes.setdefault(index, Counter())[color] += number
    usual = {index: counter.most_common(1)[0][0] for index, counter in votes.items()}
    known = set(usual.values())
    return [
        any(
            color != usual[index] and color in known
            for index, color in enumerate(_colors(facts.palette))
            if index in facts.indices
        )
        for facts in files
    ]


def _colors(palette: bytes) -> list[bytes]:
    return [palette[start : start + 3] for start in range(0, len(palette), 3)]

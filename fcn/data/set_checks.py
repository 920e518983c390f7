"""Checks of the masks and images of a set: what makes training or scores meaningless, and what may mislead."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from fcn.config import IGNORE_INDEX, DataConfig
from fcn.data.datasets import WholeImages
from fcn.data.image_decoding import decode
from fcn.data.pair_reader import PairReader
from fcn.data.prefetch import read_ahead
from fcn.data.set_facts import Counts, SetFacts, combine_facts, mask_counts
from fcn.data.split_lists import Pair
from fcn.errors import DataError

MANY_VOID = 0.5
"""Share of void pixels above which a warning is given."""


def require_labels(images: WholeImages, split: str, classes: Sequence[str]) -> None:
    """Check that the masks of a set contain pixels to learn from or to score.

    Without counts from a cache, masks are read until one contains a class other than the background, usually the first.

    Raises:
        DataError: if all pixels are void, or are void or background.
    """
    counts = images.facts.counts if images.facts else _counts_until_labelled(images)
    check_labels(counts.sum(axis=0), split, classes)


def check_labels(pixels: Counts, split: str, classes: Sequence[str]) -> None:
    """Check the pixels of a set, as `require_labels`.

    Args:
        pixels: pixels of every class and, last, of void, int64 [classes + 1].
        split: name of the split.
        classes: names of the classes.
    """
    if not pixels.any():
        return
    first = classes[1]
    remedy = (
        f"if {IGNORE_INDEX} stands for {first} in the masks, use 'data.label_map={{{IGNORE_INDEX}: 1}}'; otherwise "
        "correct the masks"
    )
    if not pixels[:-1].any():
        raise DataError(
            f"the masks of {split} must contain pixels of a class, but all are void ({IGNORE_INDEX})", remedy
        )
    if pixels[-1] and not pixels[1:-1].any():
        raise DataError(
            f"the masks of {split} must contain a class other than {classes[0]}, but their only values are 0 and "
            f"{IGNORE_INDEX} (void)",
            remedy,
        )


def _counts_until_labelled(images: WholeImages) -> Counts:
    counts = []
    with read_ahead(images.read, range(len(images))) as readings:
        for _, reading in readings:
            counts.append(mask_counts(reading.result()[1], images.num_classes))
            if counts[-1][1:-1].any():
                break
    return np.array(counts)


def set_warnings(facts: SetFacts, pairs: Sequence[Pair], split: str, data: DataConfig) -> list[str]:
    """Return a line for everything in a set that may mislead.

    Args:
        facts: facts on the set.
        pairs: its images and masks.
        split: its name.
        data: dataset of the set, which may choose the use of EXIF orientations.
    """
    classes = data.classes
    pixels = facts.counts.sum(axis=0)
    lines = []
    if absent := [name for name, number in zip(classes, pixels[:-1], strict=True) if not number]:
        lines.append(
            f"the masks of {split} must contain every class of data.classes, but have no pixel of {_listed(absent)}; "
            + _remedy_of_absent_class(data)
        )
    share = pixels[-1] / max(1, pixels.sum())
    if share > MANY_VOID:
        lines.append(
            f"{share:.0%} of the pixels of {split} are void ({IGNORE_INDEX}), which neither train nor count; if "
            f"{IGNORE_INDEX} stands for a class, use 'data.label_map={{{IGNORE_INDEX}: 1}}'"
        )
    turned = Counter(turn for turn in facts.orientations.tolist() if turn > 1)
    if turned and getattr(data, "exif", None) is None:
        kinds = ", ".join(f"{turn} in {number}" for turn, number in sorted(turned.items()))
        lines.append(
            f"{turned.total()} of {len(pairs)} images of {split} have an EXIF orientation ({kinds}), which is ignored; "
            "use data.exif=apply if the masks were drawn on the upright images, otherwise data.exif=ignore"
        )
    return lines + _palette_warnings(facts, pairs, split, num_classes=len(classes))


def _remedy_of_absent_class(data: DataConfig) -> str:
    if data.limit is not None:
        return "use a larger data.limit"
    if data.fold is not None:
        return "use fewer data.folds or another data.split_seed"
    if not hasattr(data, "label_map"):  # the built-in dataset, whose classes are fixed
        return "use more images"
    return "remove it from data.classes, or set data.label_map if the masks have other values"


def _palette_warnings(facts: SetFacts, pairs: Sequence[Pair], split: str, *, num_classes: int) -> list[str]:
    other = facts.has_other_palette
    if not other.any():
        return []
    names = _listed([str(pair.mask) for pair, is_other in zip(pairs, other, strict=True) if is_other])
    usual = next(pair.mask for pair, is_other in zip(pairs, other, strict=True) if not is_other)
    colors = palette_colors(usual, num_classes)
    return [
        f"masks of {split} must have one palette, but {int(other.sum())} of {len(pairs)} have colours of the others at "
        f"other indices: {names}; read colours instead of indices: data.mask_format=rgb 'data.colors={colors}'"
    ]


def other_palettes(
    sets: Sequence[tuple[SetFacts, Sequence[Pair]]], splits: tuple[str, str], reader: PairReader
) -> list[str]:
    """Return a warning if the masks of one split have the colours of the other at other indices.

    One mask of each split is read, which has the palette of the others of its split and the most classes.

    Args:
        sets: facts, images and masks of the training and the validation split.
        splits: their names.
        reader: reader of both.
    """
    usual = [pairs[_most_varied(facts)] for facts, pairs in sets]
    if not combine_facts([reader.inspect(pair)[2] for pair in usual], reader.num_classes).has_other_palette[1]:
        return []
    colors = palette_colors(usual[0].mask, reader.num_classes)
    return [
        f"masks of {splits[0]} and {splits[1]} must have one palette, but {usual[1].mask} has colours of "
        f"{usual[0].mask} at other indices; read colours instead of indices: data.mask_format=rgb "
        f"'data.colors={colors}'"
    ]


def _most_varied(facts: SetFacts) -> int:
    """Return the index of the mask with the most classes among those whose palette is the usual one."""
    classes = (facts.counts[:, :-1] > 0).sum(axis=1)
    return int(np.argmax(np.where(facts.has_other_palette, -1, classes)))


def palette_colors(path: Path, num_classes: int) -> str:
    """Return the palette colours of the classes and of void in a mask file, as a value of `data.colors`."""
    palette = decode(path).getpalette() or []
    colors = [palette[start : start + 3] for start in range(0, len(palette), 3)]
    void = (
        colors[IGNORE_INDEX:] if len(colors) > IGNORE_INDEX and colors[IGNORE_INDEX] not in colors[:num_classes] else []
    )
    return f"[{','.join('[{},{},{}]'.format(*color) for color in [*colors[:num_classes], *void])}]"


def shared_names(train: Iterable[Pair], val: Iterable[Pair], splits: tuple[str, str]) -> list[str]:
    """Return a warning if an image is in two splits, by its name."""
    validation = {pair.name for pair in val}
    if both := [pair.name for pair in train if pair.name in validation]:
        return [both_lists(both, splits)]
    return []


def both_lists(names: Sequence[str], splits: tuple[str, str]) -> str:
    """Return the warning for images that are in two splits."""
    return (
        f"{splits[0]} and {splits[1]} must have different images, but {len(names)} are in both: {_listed(names)}; "
        f"remove them from one of the splits, because scores of images that were trained on are too high"
    )


def _listed(names: Sequence[str], number: int = 5) -> str:
    more = f" and {len(names) - number} more" if len(names) > number else ""
    return ", ".join(names[:number]) + more

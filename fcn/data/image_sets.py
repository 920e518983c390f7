"""Images of the splits of a dataset.

Imports no Lightning: evaluation needs the images without the data module of training.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from fcn.config import FOLD, ConfigError, DataConfig
from fcn.data import cache
from fcn.data.datasets import WholeImages
from fcn.data.divisions import fold_numbers
from fcn.data.mask_formats import MaskReader
from fcn.data.pair_reader import PairReader
from fcn.data.split_lists import MissingMask, MissingSplit, Pair, split_entries
from fcn.errors import DataError


def split_images(data: DataConfig, root: Path, split: str) -> WholeImages:
    """Return the images of a split below the folder that `DataConfig.locate` returns, from their cache if it exists.

    With `data.fold`, the split `fold` contains the images that validate, and the training split all others.

    Raises:
        ConfigError: if there are more folds than images.
        DataError: if the set or the split is missing, or the list is empty or names a missing file.
    """
    whole = whole_split(data, split)
    pairs, reader = read_pairs(data, root, whole), reader_of(data)
    folder = cache.cache_folder(root, data.cache_dir)
    decoded = cache.open_cache(pairs, cache_name(data, whole), reader=reader, folder=folder) if data.cache else None
    images = WholeImages(pairs, reader=reader, decoded=decoded)
    if data.fold is None or whole != data.train_split:
        return images
    return images.select(_indices_of_part(data, [pair.name for pair in pairs], validates=split == FOLD))


def whole_split(data: DataConfig, split: str) -> str:
    """Return the split that is read and cached for a split: for a fold, the training split, which has all folds."""
    return data.train_split if data.fold is not None and split == FOLD else split


def _indices_of_part(data: DataConfig, names: Sequence[str], *, validates: bool) -> list[int]:
    """Return the indices of the images in the fold that validates, or of all others."""
    if len(names) < data.folds:
        raise ConfigError(
            f"data.folds (={data.folds}) must not exceed the {len(names)} images of {data.train_split}; use "
            "data.fold=null or fewer folds"
        )
    numbers = fold_numbers(names, folds=data.folds, seed=data.split_seed)
    return [index for index, number in enumerate(numbers) if (number == data.fold) is validates]


def read_pairs(data: DataConfig, root: Path, split: str) -> list[Pair]:
    """Return the images of a split, not divided into folds, and their masks; all files exist.

    Raises:
        DataError: if the set or the split is missing, or the list is empty or names a missing file; if no image has a
            mask, the message says that the split can only be predicted.
    """
    entries = entries_of(data, root, split)
    try:
        return [pair_of() for pair_of in entries]
    except MissingMask as error:
        if not all(map(_lacks_mask, entries)):
            raise
        raise DataError(
            f"{split} must have masks to be scored or trained on, but none of its {len(entries)} images has one",
            f"scripts/predict.py predicts images without masks; or add the masks: {error}",
        ) from error


def _lacks_mask(pair_of: Callable[[], Pair]) -> bool:
    try:
        pair_of()
    except MissingMask:
        return True
    except DataError:
        return False
    return False


def cache_name(data: DataConfig, split: str) -> str:
    """Return the name of the cache of a split: different for other images, so that none replaces another.

    All folds share the cache of the split that is divided.
    """
    name = split if data.limit is None else f"{split}-first-{data.limit}"
    fraction = getattr(data, "val_fraction", None)  # a key of data=folders
    return name if fraction is None else f"{name}-{fraction}-{data.split_seed}"


def entries_of(data: DataConfig, root: Path, split: str) -> Sequence[Callable[[], Pair]]:
    """Return a function for every image of a split, at most `data.limit`, which returns its pair.

    Raises:
        DataError: if the dataset or the split is missing; see `DataConfig.entries`.
    """
    entries = data.entries(root, split)
    return (split_entries(root, split) if entries is None else entries)[: data.limit]


def reader_of(data: DataConfig) -> PairReader:
    """Return the reader of the images and masks of a dataset."""
    reader: PairReader | None = data.reader()
    return reader or PairReader(MaskReader(len(data.classes)))


def combined_entries(
    roots: Sequence[str | Path],
    entries_of: Callable[[Path, str], list[Callable[[], Pair]]],
    split: str,
    *,
    others: Sequence[str],
) -> list[Callable[[], Pair]]:
    """Return the entries of a split in several folders; names of all but the first begin with that of their folder.

    Args:
        roots: the folders; one of them must have the split.
        entries_of: returns the entries of a split below a folder, and raises MissingSplit if the folder lacks it.
        split: name of the split.
        others: names of the splits of the dataset; each folder must have one of them.

    Raises:
        DataError: if no folder has the split, or one of them is invalid or has no split at all.
    """
    entries: list[Callable[[], Pair]] = []
    missing: list[MissingSplit] = []
    for number, root in enumerate(map(Path, roots)):
        try:
            own = entries_of(root, split)
        except MissingSplit as error:
            if number and not any(_has_split(root, entries_of, other) for other in others):
                raise  # a misspelt list would otherwise add nothing
            missing.append(error)
            continue
        entries += [partial(_renamed, root.resolve().name, pair_of) for pair_of in own] if number else own
    if not entries:
        raise missing[0]
    return entries


def _has_split(root: Path, entries_of: Callable[[Path, str], list[Callable[[], Pair]]], split: str) -> bool:
    try:
        return bool(entries_of(root, split))
    except MissingSplit:
        return False


def _renamed(folder: str, pair_of: Callable[[], Pair]) -> Pair:
    pair = pair_of()
    return replace(pair, name=f"{folder}/{pair.name}")

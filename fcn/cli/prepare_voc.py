"""Check every image and mask of a dataset and propose a training command; download Pascal VOC 2012 on request.

    python scripts/prepare_voc.py root=data download=true 'splits=[train,val]'
    python scripts/prepare_voc.py root=data sbd=true 'splits=[train_aug]'
    python scripts/prepare_voc.py data=folders data.root=mine 'data.classes=[background,cat,dog]'

The exit status is 0 if every pair is valid, and 1 otherwise; all problems are listed, and what may mislead besides.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from fcn.cli.hydra_entry import given_overrides, run_command
from fcn.config import ConfigError, DataConfig, check_data, setting
from fcn.config.components import default_option
from fcn.errors import DataError
from fcn.runs.atomic_files import write_text

if TYPE_CHECKING:  # these import torch
    from fcn.data.split_lists import Pair
    from fcn.data.statistics import SplitReading


@dataclass(kw_only=True, slots=True)
class PrepareConfig:
    data: DataConfig = default_option("data", "voc")
    root: str | None = setting(None, "the same as data.root")
    download: bool = setting(False, "download VOC2012 (2 GB) into data.root if it is missing")
    sbd: bool = setting(False, "add the masks and lists of SBD (1.4 GB): SegmentationClassAug, train_aug and sbd_train")
    splits: list[str] | None = setting(None, "splits to read; null: data.train_split and data.val_split")
    classes: list[str] | None = setting(None, "the same as data.classes")
    workers: int | None = setting(None, "number of reading threads; null: one per core", low=1)
    json: str | None = setting(None, "file for the statistics")


def prepare_voc(config: PrepareConfig, overrides: Sequence[str] = ()) -> int:
    """Check all pairs of the splits; return 0 if every pair is valid, and 1 otherwise.

    Args:
        config: configuration of the command.
        overrides: overrides of the command line, of which the proposed command repeats those of the dataset.

    Raises:
        ConfigError: if no split is named, keys contradict each other, the JSON file cannot be written, or SciPy is
            missing for sbd=true.
        DataError: if a download fails, or the dataset or a split is missing.
    """
    from fcn.cli.proposed_command import print_proposal, proposed_run
    from fcn.data import image_sets  # imports torch, unlike --help and completion

    data, console = _data(config), Console()
    root = _locate(config, data, console)
    splits = [data.train_split, data.val_split] if config.splits is None else config.splits
    # Read all lists first, so that a misspelt name is reported before any image is read.
    entries = {split: image_sets.entries_of(data, root, split) for split in splits}
    readings = _read(config, data, entries)
    data = _with_read_splits(data, splits)
    content: dict[str, Any] = {"splits": {}, "problems": [], "warnings": [], "in_both": {}}
    for split, reading in readings.items():
        _report(split, reading, data, content, console)
    _compare_splits(readings, data, content)
    content["proposal"] = proposed_run(readings, content, data, overrides)
    if config.json is not None:
        _write_json(Path(config.json), content)
    num_invalid = sum(len(reading.problems) for reading in readings.values())
    status = _print_verdict(console, content, num_invalid=num_invalid, num_pairs=sum(map(len, entries.values())))
    print_proposal(console, content)
    return status


def _data(config: PrepareConfig) -> DataConfig:
    """Return the dataset to read, with the keys of the command that stand for those of the group data."""
    if config.splits == []:
        raise ConfigError("splits (=[]) must name a list; use splits=[train,val]")
    data = config.data
    _check_keys(config)
    if config.root is not None:
        data = replace(data, root=config.root)
    if config.classes is not None:
        data = replace(data, classes=config.classes)
    check_data(data)
    if data.fold is not None:
        raise ConfigError(f"data.fold (={data.fold}) must be null, because whole splits are read; omit it")
    if (short_side := data.augmentation.short_side) is not None:
        raise ConfigError(
            f"data.augmentation.short_side (={short_side}) must be null, because the proposed keys are for images of "
            "native size; omit it"
        )
    return data


def _check_keys(config: PrepareConfig) -> None:
    """Check that no key replaces another one or a folder that is not VOC's."""
    defaults = type(config.data)()
    for key in ("root", "classes"):
        if getattr(config, key) is not None and getattr(config.data, key) != getattr(defaults, key):
            raise ConfigError(f"{key} and data.{key} must not both be set, because they are the same; leave one out")
    for key in ("download", "sbd"):
        if getattr(config, key) and config.data.name != "voc":
            raise ConfigError(
                f"{key} (=true) must be false with data={config.data.name}, because it adds files of Pascal VOC; use "
                "data=voc"
            )


def _locate(config: PrepareConfig, data: DataConfig, console: Console) -> Path:
    """Return the folder of the dataset; download it before if that is configured."""
    from fcn.data import download, sbd

    root = Path(data.root)
    if config.sbd:
        sbd.require_scipy()  # before a long download
    if config.download:
        download.download(root)
    if config.sbd:
        for name, count in sbd.add_sbd(root).items():
            console.print(f"{name}: {count:,} images")
    return data.locate(prepare=True)


def _with_read_splits(data: DataConfig, splits: Sequence[str]) -> DataConfig:
    """Return the dataset with splits that are read: the first and the last one if neither of its own ones is.

    If one of its own is read, nothing says what another one is for: beside `val`, it may be a test set.
    """
    if len(set(splits)) < 2 or not {data.train_split, data.val_split}.isdisjoint(splits):
        return data
    return replace(data, train_split=splits[0], val_split=next(s for s in reversed(splits) if s != splits[0]))


def _read(
    config: PrepareConfig, data: DataConfig, entries: Mapping[str, Sequence[Callable[[], Pair]]]
) -> dict[str, SplitReading]:
    from fcn.data.image_sets import reader_of
    from fcn.data.statistics import read_split_files

    readings = {}
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        for split, listed in entries.items():
            bar = progress.add_task(f"reading {escape(split)}", total=len(listed))
            advance = partial(progress.advance, bar)
            readings[split] = read_split_files(listed, reader_of(data), workers=config.workers, advance=advance)
    return readings


def _report(split: str, reading: SplitReading, data: DataConfig, content: dict[str, Any], console: Console) -> None:
    """Add the statistics, problems and warnings of a split to `content`, and print its table."""
    from fcn.data.crop_statistics import size_statistics
    from fcn.data.set_checks import check_labels, set_warnings
    from fcn.data.set_facts import combine_facts
    from fcn.data.statistics import summarize

    facts = combine_facts(reading.facts, len(data.classes))
    content["splits"][split] = summarize(facts.counts, data.classes)
    content["problems"] += reading.problems
    try:
        check_labels(facts.counts.sum(axis=0), split, data.classes)
    except DataError as error:
        content["problems"].append(str(error))
    if reading.pairs:
        content["splits"][split] |= size_statistics(reading.sizes, facts.counts)
        content["warnings"] += set_warnings(facts, reading.pairs, split, data)
    console.print(_table(split, content["splits"][split]))


def _compare_splits(readings: Mapping[str, SplitReading], data: DataConfig, content: dict[str, Any]) -> None:
    """Add to `content` what may mislead in the validation split compared with every other split that was read."""
    from fcn.data.image_sets import reader_of
    from fcn.data.set_checks import both_lists, other_palettes
    from fcn.data.set_facts import combine_facts

    if data.val_split not in readings:
        return
    val_reading = readings[data.val_split]
    for split, split_reading in readings.items():
        if split == data.val_split:
            continue
        splits = (split, data.val_split)
        if split != data.train_split and _is_part(split_reading, val_reading):
            continue
        content["in_both"][split] = shared_images = _shared_images(split_reading, val_reading)
        if shared_images:
            content["warnings"].append(both_lists(shared_images, splits))
        if split_reading.pairs and val_reading.pairs:
            pair_of_readings = (split_reading, val_reading)
            sets = [(combine_facts(each.facts, len(data.classes)), each.pairs) for each in pair_of_readings]
            content["warnings"] += other_palettes(sets, splits, reader_of(data))


def _is_part(one: SplitReading, other: SplitReading) -> bool:
    """Whether a split contains the other, such as trainval and val of VOC, which is no mistake."""
    first, second = ({pair.name for pair in split.pairs} for split in (one, other))
    return first <= second or second <= first


def _shared_images(split_reading: SplitReading, val_reading: SplitReading) -> list[str]:
    """Return the images that a split shares with the validation split, by name or pixels."""
    names = {pair.name: pair.name for pair in val_reading.pairs}
    contents = dict(zip(val_reading.digests, (pair.name for pair in val_reading.pairs), strict=True))
    shared_images = []
    for pair, digest in zip(split_reading.pairs, split_reading.digests, strict=True):
        val_name = names.get(pair.name) or contents.get(digest)
        if val_name is not None:
            shared_images.append(pair.name if val_name == pair.name else f"{pair.name} (as {val_name})")
    return shared_images


def _table(split: str, content: dict[str, Any]) -> Table:
    title = f"{escape(split)}: {content['images']} images, {content['void_share']:.2%} of the pixels void"
    table = Table("class", title=title)
    for heading in ("images", "pixels", "share", "weight"):
        table.add_column(heading, justify="right")
    for name, row in content["classes"].items():
        weight = "-" if row["weight"] is None else f"{row['weight']:.3f}"
        table.add_row(escape(name), f"{row['images']:,}", f"{row['pixels']:,}", f"{row['share']:.2%}", weight)
    return table


def _write_json(path: Path, content: dict[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, json.dumps(content, indent=2) + "\n")
    except OSError as error:
        raise ConfigError(f"json (={path}) must be a writable file: {error}") from error


def _print_verdict(console: Console, content: Mapping[str, Any], *, num_invalid: int, num_pairs: int) -> int:
    for line in [*content["problems"], *(f"warning: {line}" for line in content["warnings"])]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if num_invalid:
        console.print(f"{num_invalid} of {num_pairs} pairs are invalid")
    elif not content["problems"]:
        console.print(f"all {num_pairs} pairs are valid")
    return 1 if content["problems"] else 0


def main() -> None:
    def task(config: PrepareConfig) -> None:
        raise SystemExit(prepare_voc(config, given_overrides()))

    run_command(task, config_name="prepare_voc", schema=PrepareConfig)

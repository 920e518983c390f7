"""Download Pascal VOC 2012 on request, check every image and mask of its splits, and print class statistics.

    python scripts/prepare_voc.py root=data download=true 'splits=[train,val]'
    python scripts/prepare_voc.py root=data sbd=true 'splits=[train_aug]'

The exit status is 0 if every pair is valid, and 1 otherwise; all problems are listed.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from fcn.cli.hydra_entry import run_command
from fcn.config import VOC_CLASSES, ConfigError, setting
from fcn.runs.atomic_files import write_text


@dataclass(kw_only=True, slots=True)
class PrepareConfig:
    root: str = setting("data", "folder that contains VOCdevkit/VOC2012, or that folder itself")
    download: bool = setting(False, "download VOC2012 (2 GB) into root if it is missing")
    sbd: bool = setting(False, "add the masks and lists of SBD (1.4 GB): SegmentationClassAug, train_aug and sbd_train")
    splits: list[str] = setting(["train", "val"], "lists in ImageSets/Segmentation to read")
    classes: list[str] = setting(list(VOC_CLASSES), "names in the order of the mask indices")
    workers: int | None = setting(None, "number of reading threads; null: one per core", low=1)
    json: str | None = setting(None, "file for the statistics")


def prepare_voc(config: PrepareConfig) -> int:
    """Check all pairs of the splits; return 0 if every pair is valid, and 1 otherwise.

    Raises:
        ConfigError: if no split is named, the JSON file cannot be written, or SciPy is missing for sbd=true.
        DataError: if a download fails, or the tree or a list is missing.
    """
    from fcn.data import download, sbd, split_lists, statistics  # imports torch, unlike --help and completion
    from fcn.data.mask_formats import MaskReader
    from fcn.data.pair_reader import PairReader

    if not config.splits:
        raise ConfigError("splits (=[]) must name a list; use splits=[train,val]")
    if config.sbd:
        sbd.require_scipy()  # before a long download
    root = Path(config.root)
    if config.download:
        download.download(root)
    console = Console()
    if config.sbd:
        for name, count in sbd.add_sbd(root).items():
            console.print(f"{name}: {count:,} images")
    # Read all lists first, so that a misspelt name is reported before any image is read.
    lists = {split: split_lists.split_entries(root, split) for split in config.splits}
    content: dict[str, Any] = {"splits": {}, "problems": []}
    reader = PairReader(MaskReader(len(config.classes)))
    options: dict[str, Any] = {"classes": config.classes, "workers": config.workers}
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        for split, entries in lists.items():
            bar = progress.add_task(f"reading {escape(split)}", total=len(entries))
            advance = partial(progress.advance, bar)
            values, problems = statistics.read_statistics(entries, reader, **options, advance=advance)
            content["splits"][split] = values
            content["problems"] += problems
            console.print(_table(split, values))
    if config.json is not None:
        _write_json(Path(config.json), content)
    return _print_verdict(console, content["problems"], num_pairs=sum(len(entries) for entries in lists.values()))


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


def _print_verdict(console: Console, problems: list[str], *, num_pairs: int) -> int:
    for problem in problems:
        console.print(problem, markup=False, highlight=False, soft_wrap=True)
    if problems:
        console.print(f"{len(problems)} of {num_pairs} pairs are invalid")
        return 1
    console.print(f"all {num_pairs} pairs are valid")
    return 0


def main() -> None:
    def task(config: PrepareConfig) -> None:
        raise SystemExit(prepare_voc(config))

    run_command(task, config_name="prepare_voc", schema=PrepareConfig)

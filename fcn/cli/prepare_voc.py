"""Fetches Pascal VOC 2012 if asked to, reads every image and mask of its splits, prints class statistics.

    python scripts/prepare_voc.py root=data download=true splits=[train,val]

Exit status 0 if every pair is sound, 1 otherwise; all problems are listed.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from fcn import runs
from fcn.cli.hydra_entry import run_command
from fcn.config import VOC_CLASSES, ConfigError, setting

if TYPE_CHECKING:  # it imports torch, at run time where it is used: not for --help and completion
    from fcn.data.voc import DataError

Counts = NDArray[np.int64]


@dataclass(kw_only=True, slots=True)
class PrepareConfig:
    root: str = setting("data", "folder that holds VOCdevkit/VOC2012, or itself JPEGImages")
    download: bool = setting(False, "fetch VOC2012 (2 GB) into root when it is absent")
    splits: list[str] = setting(["train", "val"], "lists in ImageSets/Segmentation to read")
    classes: list[str] = setting(list(VOC_CLASSES), "names in the order of the mask indices")
    workers: int | None = setting(None, "threads that read; null: one per core", low=1)
    json: str | None = setting(None, "file that receives the statistics")


@dataclass(frozen=True)
class SplitStatistics:
    """What the masks of a split hold; arrays are int64 with one entry per class.

    Attributes:
        num_images: pairs that were read.
        images: images that contain the class.
        pixels: pixels of the class.
        pixels_where_present: non-void pixels of the images that contain the class.
        void: void pixels.
    """

    num_images: int
    images: Counts
    pixels: Counts
    pixels_where_present: Counts
    void: int

    @classmethod
    def from_counts(cls, counts: Counts) -> SplitStatistics:
        """Statistics of int64 [images, classes + 1]: an image's pixels of every class and, last, of void."""
        pixels, void = counts[:, :-1], counts[:, -1]
        present = pixels > 0
        where_present = (present * pixels.sum(axis=1, keepdims=True)).sum(axis=0)
        return cls(len(counts), present.sum(axis=0), pixels.sum(axis=0), where_present, int(void.sum()))

    @property
    def shares(self) -> NDArray[np.float64]:
        """Share of the non-void pixels that each class has; zeros if there are none."""
        return self.pixels / max(1, int(self.pixels.sum()))

    @property
    def void_share(self) -> float:
        return self.void / max(1, self.void + int(self.pixels.sum()))

    @property
    def weights(self) -> NDArray[np.float64]:
        """Median-frequency-balancing weights, NaN for an absent class.

        The frequency of a class is its share of the non-void pixels of the images that contain it; its weight
        is the median of all frequencies over its own (Eigen and Fergus 2015, "Predicting Depth, ...").
        """
        frequencies = np.full(len(self.pixels), np.nan)
        np.divide(self.pixels, self.pixels_where_present, out=frequencies, where=self.pixels > 0)
        present = frequencies[self.pixels > 0]
        return np.median(present) / frequencies if present.size else frequencies


def prepare(config: PrepareConfig) -> int:
    """Exit status of the whole job: 0 if every pair of every split is sound, 1 otherwise.

    Raises:
        ConfigError: if no split is named, or the JSON file cannot be written.
        DataError: if the download fails, or the tree or a list is absent.
    """
    from fcn.data import download as archive
    from fcn.data import voc

    if not config.splits:
        raise ConfigError("splits (=[]) must name a list; use splits=[train,val]")
    root = Path(config.root)
    if config.download:
        archive.download(root)
    tree, console = voc.require_tree(root), Console()
    # All lists first: a misspelt one must not cost the time of reading the others.
    lines = {split: voc.split_lines(tree, split) for split in config.splits}
    statistics: dict[str, SplitStatistics] = {}
    problems: list[str] = []
    for split, found in _read_splits(config, tree, lines):
        good = [counts for counts in found if not isinstance(counts, voc.DataError)]
        problems += [str(problem) for problem in found if isinstance(problem, voc.DataError)]
        counts = np.array(good, np.int64).reshape(len(good), len(config.classes) + 1)
        statistics[split] = SplitStatistics.from_counts(counts)
        console.print(_table(split, statistics[split], config.classes))
    if config.json is not None:
        _write_json(Path(config.json), _plain(statistics, problems, config.classes))
    return _report(console, problems, num_pairs=sum(map(len, lines.values())))


def _read_splits(
    config: PrepareConfig, tree: Path, lines: dict[str, list[tuple[int, str]]]
) -> Iterator[tuple[str, list[Counts | DataError]]]:
    """Each split with one entry per line: pixel counts, or what is wrong with the pair."""
    # Threads, because decoding and counting leave Python's lock, and processes would each import torch first.
    workers = ThreadPoolExecutor(config.workers or os.cpu_count())
    try:
        with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
            for split, numbered in lines.items():
                jobs = [(tree, split, number, line, len(config.classes)) for number, line in numbered]
                results = progress.track(workers.map(_count, jobs), len(jobs), description=f"reading {split}")
                yield split, list(results)
    finally:
        workers.shutdown(cancel_futures=True)  # on Ctrl-C, do not read the rest


def _count(job: tuple[Path, str, int, str, int]) -> Counts | DataError:
    """Pixels of every class and, last, of void, int64 [classes + 1], in the pair of one line of a list."""
    from fcn.data import voc

    tree, split, number, line, num_classes = job
    try:
        pair = voc.pair_of_line(tree, split, number, line)
        _, mask = voc.read_pair(pair, num_classes)
    except voc.DataError as error:
        return error
    counts = np.bincount(mask.numpy().ravel(), minlength=256)
    return np.append(counts[:num_classes], counts[255])


def _table(split: str, statistics: SplitStatistics, classes: list[str]) -> Table:
    title = f"{split}: {statistics.num_images} images, {statistics.void_share:.2%} of the pixels void"
    table = Table("class", title=title)
    for heading in ("images", "pixels", "share", "weight"):
        table.add_column(heading, justify="right")
    columns = (statistics.images, statistics.pixels, statistics.shares, statistics.weights)
    for name, images, pixels, share, weight in zip(classes, *columns, strict=True):
        known = "-" if np.isnan(weight) else f"{weight:.3f}"
        table.add_row(name, f"{images:,}", f"{pixels:,}", f"{share:.2%}", known)
    return table


def _plain(statistics: dict[str, SplitStatistics], problems: list[str], classes: list[str]) -> dict[str, Any]:
    """What goes into the JSON file; the weight of an absent class is null."""
    splits = {}
    for split, found in statistics.items():
        columns = (found.images, found.pixels, found.shares, found.weights)
        splits[split] = {
            "images": found.num_images,
            "void_pixels": found.void,
            "void_share": found.void_share,
            "classes": {
                name: {
                    "images": int(images),
                    "pixels": int(pixels),
                    "share": float(share),
                    "weight": None if np.isnan(weight) else float(weight),
                }
                for name, images, pixels, share, weight in zip(classes, *columns, strict=True)
            },
        }
    return {"splits": splits, "problems": problems}


def _write_json(path: Path, content: dict[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        runs.write_text(path, json.dumps(content, indent=2) + "\n")
    except OSError as error:
        raise ConfigError(f"json (={path}) must be a file that can be written: {error}") from error


def _report(console: Console, problems: list[str], *, num_pairs: int) -> int:
    for problem in problems:
        console.print(problem, markup=False, highlight=False, soft_wrap=True)
    if problems:
        console.print(f"{len(problems)} of {num_pairs} pairs are not sound")
        return 1
    console.print(f"all {num_pairs} pairs are sound")
    return 0


def main() -> None:
    def task(config: PrepareConfig) -> None:
        raise SystemExit(prepare(config))

    run_command(task, config_name="prepare_voc", schema=PrepareConfig)

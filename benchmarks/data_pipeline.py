"""Our data pipeline against torchvision's: images per second on one core, and peak memory."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader
from torchvision import datasets, tv_tensors
from torchvision.transforms import v2

from benchmarks.results import Goal, Result
from benchmarks.settings import VOC_SIZE, Settings, make_tree
from benchmarks.timing import compare_in_turns, seconds_once
from fcn.config import IGNORE_INDEX, Config
from fcn.data.image_sets import reader_of
from fcn.data.module import VOCDataModule
from fcn.data.split_lists import read_split
from fcn.data.transforms import PAD_COLOR
from fcn.models.network import IMAGENET_MEAN, IMAGENET_STD
from fcn.training.trainer import build_trainer

REFERENCE = "torchvision: VOCSegmentation, v2 transforms"


def measure_data(settings: Settings) -> list[Result]:
    """Compare both pipelines with d2l's crop and with the scales of `data=voc`, and measure peak memory."""
    num_images = 4 if settings.quick else 96
    tree = make_tree(settings.folder / "data-tree", num_train=num_images, source=settings.data_root)
    cases = [(False, True), (True, True), (False, False), (True, False)]
    results = [_compare_pipelines(settings, tree, scaled=scaled, floats=floats) for scaled, floats in cases]
    return [*results, *_measure_memory(settings, tree)]


def _compare_pipelines(settings: Settings, tree: Path, *, scaled: bool, floats: bool) -> Result:
    """Compare with torchvision's usual pipeline if `floats`, or with its part up to uint8 images, where ours ends."""
    scale = "[0.5,2.0]" if scaled else "[1.0,1.0]"
    config = settings.config(
        tree, settings.variants[0], "data.augmentation.flip=0.5", f"data.augmentation.scale={scale}",
        "data.num_workers=0", f"batch_size={min(settings.batch_size, 4)}",
    )  # fmt: skip
    ours = build_data(config, build_trainer(config, callbacks=[])).train_dataloader()
    dataset = torchvision_dataset(tree, settings.size, scaled=scaled, floats=floats)
    theirs = DataLoader(dataset, batch_size=config.batch_size)
    num_images = len(ours) * config.batch_size

    def rate(batches: Iterable[Any]) -> float:
        return num_images / seconds_once(lambda: [None for _ in batches])

    note = "theirs also converts to normalised floats, which ours does on the device, in the step" if floats else ""
    name = f"images per second and core: {'scale, ' * scaled}crop, flip{'' if floats else ', to bytes'}"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return compare_in_turns(
            settings, name, REFERENCE, "rate speedup", ours=lambda: rate(ours), theirs=lambda: rate(theirs),
            unit="images/s", goal=Goal(12 if scaled else 20) if floats else None, note=note,
        )  # fmt: skip
    finally:
        torch.set_num_threads(threads)


def build_data(config: Config, trainer: pl.Trainer) -> VOCDataModule:
    """Return the data module of a run, ready for its loaders, outside of a run."""
    data = VOCDataModule(config)
    data.prepare_data()
    data.setup("fit")
    data.trainer = trainer
    return data


def torchvision_dataset(tree: Path, size: tuple[int, int], *, scaled: bool, floats: bool) -> Any:
    """Return torchvision's VOC with its own transforms: scale, crop, flip, and optionally normalised floats."""
    types = {tv_tensors.Image: torch.float32, tv_tensors.Mask: torch.int64, "others": None}
    short = min(VOC_SIZE)
    steps = [
        v2.ToImage(),
        *([v2.RandomResize(short // 2, 2 * short)] if scaled else []),
        v2.RandomCrop(size, pad_if_needed=True, fill={tv_tensors.Image: PAD_COLOR, tv_tensors.Mask: IGNORE_INDEX}),
        v2.RandomHorizontalFlip(0.5),
        *([v2.ToDtype(types, scale=True), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD)] if floats else []),
    ]
    dataset = datasets.VOCSegmentation(tree, year="2012", image_set="train", transforms=v2.Compose(steps))
    return datasets.wrap_dataset_for_transforms_v2(dataset)


def _measure_memory(settings: Settings, tree: Path) -> list[Result]:
    """Compare peak memory with the size of the decoded set; only on Linux."""
    if sys.platform != "linux":
        return []
    settings.log("memory of the data")
    config = settings.config(
        tree, settings.variants[0], "data.num_workers=0", "batch_size=4", f"data.cache_dir={settings.folder}/cache"
    )
    with multiprocessing.get_context("spawn").Pool(1) as pool:  # a new interpreter, without memory to reuse
        decoded, peak = pool.apply(decoded_and_peak_bytes, (config,))
    return [
        Result.of(
            "peak memory of the data, first epoch included",
            "decoded set, uint8",
            "multiple",
            ours=[peak / 2**20],
            theirs=[decoded / 2**20],
            unit="MiB",
            goal=Goal(1.1, at_least=False),
            note="resident memory beyond the imports and one image",
        )
    ]


def decoded_and_peak_bytes(config: Config) -> tuple[int, int]:
    """Read all images; return their decoded size and the peak growth of this process's memory."""
    torch.set_num_threads(1)
    # Imports and the buffers of one image do not count.
    reader_of(config.data).read(read_split(Path(config.data.root), config.data.train_split)[0])
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak, VmHWM
    before, decoded = memory_bytes("VmRSS"), 0
    data = VOCDataModule(config)
    data.prepare_data()
    data.setup("fit")
    for images in (data.train_images, data.val_images):
        for index in range(len(images)):
            sample = images[index]
            decoded += sample["image"].numel() + sample["mask"].numel()
    return decoded, memory_bytes("VmHWM") - before


def memory_bytes(field: str) -> int:
    """Return resident memory (VmRSS) or its peak (VmHWM) of this process."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:")) * 1024

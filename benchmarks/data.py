"""The data pipeline on one core, after its first epoch, against torchvision's; and the memory that it takes."""

from __future__ import annotations

import contextlib
import multiprocessing
import sys
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import datasets, tv_tensors
from torchvision.transforms import v2

from benchmarks.measuring import alternate, seconds_per_call, threads
from benchmarks.results import Findings, Goal, Result, multiple, speedup
from benchmarks.settings import VOC_SIZE, Settings, make_tree
from fcn.config import Config
from fcn.data import voc
from fcn.data.module import VOCDataModule
from fcn.training.trainer import build_trainer

VOID = 255
REFERENCE = "torchvision: VOCSegmentation, v2 transforms"


def measure(settings: Settings) -> Findings:
    """Images per second of both pipelines, with the chapter's crop and with the scales of `data=voc`; and memory."""
    tree = make_tree(
        settings.folder / "data-tree",
        num_train=4 if settings.quick else 96,
        source=settings.data_root,
    )
    rows = [(False, True), (True, True), (False, False), (True, False)]
    return Findings([*(_pipelines(settings, tree, scaled=s, floats=f) for s, f in rows), *_memory(settings, tree)])


def _pipelines(settings: Settings, tree: Path, *, scaled: bool, floats: bool) -> Result:
    """Ours against torchvision's as it is used, with `floats`, or as far as ours goes, to bytes."""
    scale = "[0.5,2.0]" if scaled else "[1.0,1.0]"
    batch = min(settings.batch_size, 8)
    config = settings.config(
        tree, settings.variants[0], "data.augmentation.flip=0.5", f"data.augmentation.scale={scale}",
        "data.num_workers=0", f"batch_size={min(batch, 4)}",
    )  # fmt: skip
    ours = loader(config)
    theirs = DataLoader(
        torchvision_set(tree, settings.size, scaled=scaled, floats=floats), batch_size=config.batch_size
    )
    num_images = len(ours) * config.batch_size

    def rate(batches: Iterable[Any]) -> float:
        return num_images / seconds_per_call(lambda: [None for _ in batches], calls=1, device="cpu")

    changes = "scale, crop, flip" if scaled else "crop, flip"
    name = f"images per second and core: {changes}{'' if floats else ', to bytes'}"
    contestants = {"theirs": lambda: rate(theirs), "ours": lambda: rate(ours)}
    with threads(1):
        found = alternate(contestants, rounds=settings.rounds, tell=lambda line: settings.tell(f"{name}: {line}"))
    note = "after the first epoch"
    if floats:
        note += "; theirs also makes floats and normalises, which ours does on the device, in the step"
    goal = Goal(10) if floats and not scaled else None
    return speedup(name, REFERENCE, ours=found["ours"], theirs=found["theirs"], unit="images/s", goal=goal, note=note)


def loader(config: Config) -> DataLoader[dict[str, Tensor]]:
    """The training loader of a run, outside a run."""
    data = VOCDataModule(config)
    data.prepare_data()
    data.setup("fit")
    data.trainer = build_trainer(config, callbacks=[])
    return data.train_dataloader()


def torchvision_set(tree: Path, size: tuple[int, int], *, scaled: bool, floats: bool) -> Any:
    """Torchvision's own VOC with its own transforms: decode, scale, crop, flip, and maybe to floats and normalise."""
    types = {tv_tensors.Image: torch.float32, tv_tensors.Mask: torch.int64, "others": None}
    short = min(VOC_SIZE)
    fill = {tv_tensors.Image: (124, 116, 104), tv_tensors.Mask: VOID}
    steps = [
        v2.ToImage(),
        *([v2.RandomResize(short // 2, 2 * short)] if scaled else []),
        v2.RandomCrop(size, pad_if_needed=True, fill=fill),
        v2.RandomHorizontalFlip(0.5),
    ]
    if floats:
        steps += [v2.ToDtype(types, scale=True), v2.Normalize(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))]
    found = datasets.VOCSegmentation(tree, year="2012", image_set="train", download=False, transforms=v2.Compose(steps))
    return datasets.wrap_dataset_for_transforms_v2(found)


def _memory(settings: Settings, tree: Path) -> list[Result]:
    """Peak of what the data take, against the decoded set; only where Linux counts pages that processes share."""
    if not Path("/proc/self/smaps_rollup").exists():
        return []
    settings.tell("memory of the data")
    config = settings.config(
        tree, settings.variants[0], "data.num_workers=0", "batch_size=4", f"data.cache_dir={settings.folder}/cache"
    )
    context = multiprocessing.get_context("spawn")  # an interpreter of its own: what is freed here is not there
    with context.Pool(1) as pool:
        decoded, peak = pool.apply(memory, (config,))
    return [
        multiple(
            "peak memory of the data, first epoch included",
            "the decoded set, uint8",
            ours=[peak / 2**20],
            theirs=[decoded / 2**20],
            unit="MiB",
            goal=Goal(1.1, at_least=False),
            note="proportional set size beyond the imports and one image",
        )
    ]


def memory(config: Config) -> tuple[int, int]:
    """Bytes of the decoded images and masks, and by how much this process's memory was larger while it read them."""
    torch.set_num_threads(1)
    # What a process has anyhow: libraries, and the buffers of one image.
    voc.read_pair(voc.read_split(Path(config.data.root), config.data.train_split)[0], len(config.data.classes))
    decoded = 0
    with Watch() as watch:
        data = VOCDataModule(config)
        data.prepare_data()
        data.setup("fit")
        for images in (data.train_images, data.val_images):
            for index in range(len(images)):
                sample = images[index]
                decoded += sample["image"].numel() + sample["mask"].numel()
    return decoded, watch.peak - watch.before


class Watch(contextlib.AbstractContextManager["Watch"]):
    """Highest proportional set size of this process, looked at every few milliseconds.

    Attributes:
        before: bytes at the beginning.
        peak: highest number of bytes seen.
    """

    def __enter__(self) -> Watch:
        self.before = self.peak = proportional_set_size()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._over.set()
        self._thread.join()
        self.peak = max(self.peak, proportional_set_size())

    def _look(self) -> None:
        while not self._over.wait(0.005):
            self.peak = max(self.peak, proportional_set_size())


def proportional_set_size() -> int:
    """Bytes of memory of this process, where a page that n processes share counts as the n-th part of it.

    Raises:
        OSError: on a system other than Linux.
    """
    if sys.platform != "linux":
        raise OSError("the proportional set size is known on Linux only")
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()
    line = next(line for line in lines if line.startswith("Pss:"))
    return int(line.split()[1]) * 1024

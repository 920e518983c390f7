"""VOCDataModule: which images, in which order, changed how, for which process.

Exactness rests on three functions. The order of an epoch is a function of (seed, epoch). The augmentation of an
image is a function of (seed, epoch, index). The share of a process is every `world_size`-th image of the global
batch. So the images of a step do not depend on workers, processes, or on where a resumed run started. Validation deals
whole batches to the processes, so that which images share one does not depend on their number either.
"""

from __future__ import annotations

import atexit
import functools
import logging
import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.synchronize import Event
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, default_collate

from fcn.config import Config, ConfigError, Protocol
from fcn.data import cache, voc
from fcn.data.datasets import Crops, Sample, WholeImages, collate
from fcn.data.fingerprint import fingerprint
from fcn.data.image_sets import locate_root, split_images
from fcn.data.on_device import DeviceCrops, DrawnChanges
from fcn.data.sampling import AUGMENTATION, CHAPTER_CROPS, EpochBatches
from fcn.data.transforms import TrainTransform
from fcn.data.voc import DataError
from fcn.runs import STOP_SIGNALS

log = logging.getLogger(__name__)

GPU_BATCH_SIZE = 8  # of validation


class VOCDataModule(pl.LightningDataModule):
    """Training crops and whole validation images of a VOC tree, or of the embedded set drawn as one.

    Under `data.protocol=d2l` there is a second validation loader, the chapter's: random crops of the validation
    images in whole batches.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        # A process may get no validation image at all: metrics are summed over the processes once per epoch.
        self.allow_zero_length_dataloader_with_multiple_devices = True

    def prepare_data(self) -> None:
        """Draw the embedded set, or download VOC if asked to; decode into the cache what is not there.

        Called in one process of each machine.
        """
        data = self.config.data
        root = locate_root(data, prepare=True)
        if data.cache:
            sets = {split: voc.read_split(root, split) for split in (data.train_split, data.val_split)}
            cache.prepare(sets, num_classes=len(data.classes), folders=cache.cache_folders(root, data.cache_dir))

    def setup(self, stage: str) -> None:
        data = self.config.data
        root = locate_root(data, prepare=False)
        self.train_images = split_images(data, root, data.train_split)
        self.val_images = split_images(data, root, data.val_split)
        self.dropped = 0
        if data.protocol is Protocol.d2l:
            self.chapter_images = self._large_enough(self.val_images)
            found = len(self.train_images)
            self.train_images = self._large_enough(self.train_images)
            self.dropped = found - len(self.train_images)
            self._check_batch_size(self.chapter_images, data.val_split)
        self._check_batch_size(self.train_images, data.train_split)

    def _check_batch_size(self, images: WholeImages, split: str) -> None:
        if len(images) < self.config.batch_size:
            raise ConfigError(
                f"batch_size (={self.config.batch_size}) must not exceed the {len(images)} images that "
                f"{split} gives, because partial batches are dropped; use batch_size={len(images)} or less"
            )

    def _large_enough(self, images: WholeImages) -> WholeImages:
        height, width = self.config.data.crop_size
        kept = [index for index, (h, w) in enumerate(images.sizes()) if h >= height and w >= width]
        if not kept:
            raise DataError(
                f"data.crop_size (={height}x{width}) must fit into some image, because data.protocol=d2l drops "
                f"smaller ones and all {len(images)} are smaller; use a smaller crop or data.protocol=voc"
            )
        return images.select(kept)

    @functools.cached_property
    def fingerprint(self) -> dict[str, Any]:
        """What tells this data from other: number and hash of the images of each set, see `fcn.runs.provenance`."""
        sets = {"train": self.train_images, "val": self.val_images}
        return {name: fingerprint(images.pairs) for name, images in sets.items()}

    def state_dict(self) -> dict[str, Any]:
        return {"fingerprint": self.fingerprint, "steps_per_epoch": self.steps_per_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Check that the images are those of the checkpoint, from which order and augmentation go on.

        Raises:
            ConfigError: if they are others and that is not allowed, or cannot be as an epoch has other steps.
        """
        before = state_dict["fingerprint"]
        if before == self.fingerprint:
            return
        now = self.fingerprint
        changed = ", ".join(f"{name}: {before[name]['images']}, now {now[name]['images']}" for name in now)
        found = f"data.root (={self.config.data.root}) holds other images than the run began with ({changed})"
        if state_dict["steps_per_epoch"] != self.steps_per_epoch:
            raise ConfigError(f"{found}; bring them back, or begin a new run with model.init_from=<this run>")
        if "data" not in self.config.allow:
            raise ConfigError(f"{found}; bring them back, or add allow=[data] to go on with other bits")
        log.info("changed  %s", found)

    @property
    def steps_per_epoch(self) -> int:
        return len(self.train_images) // self.config.batch_size

    def train_dataloader(self) -> DataLoader[Sample]:
        assert self.trainer is not None
        progress: Any = self.trainer.fit_loop.epoch_loop.batch_progress
        # `processed` counts the finished steps over all epochs; `ready` and current_epoch are one off in places.
        return self._crop_loader(
            self.train_images,
            stream=AUGMENTATION,
            seed=self.config.seed,
            position=lambda: progress.total.processed,
            on_device=self.config.data.on_device,
        )

    def transfer_batch_to_device(self, batch: Sample, device: torch.device, dataloader_idx: int) -> Sample:
        """The batch on the device; under `data.on_device` the loader only says what to make there."""
        if "nearest_rows" in batch:
            return self.device_crops(batch)
        moved: Sample = super().transfer_batch_to_device(batch, device, dataloader_idx)
        return moved

    def val_dataloader(self) -> list[DataLoader[Sample]]:
        trainer = self.trainer
        assert trainer is not None
        batch_size = self.config.trainer.val_batch_size or (GPU_BATCH_SIZE if self._on_gpu() else 1)
        share = self.val_images.batches(batch_size)[trainer.global_rank :: trainer.world_size]
        loaders = [DataLoader(self.val_images, batch_sampler=share, **self._loader_options())]
        if self.config.data.protocol is Protocol.d2l:
            steps = len(self.chapter_images) // self.config.batch_size
            loaders.append(
                self._crop_loader(
                    self.chapter_images,
                    stream=CHAPTER_CROPS,
                    seed=None,
                    position=lambda: trainer.current_epoch * steps,
                )
            )
        return loaders

    def _crop_loader(
        self,
        images: WholeImages,
        *,
        stream: int,
        seed: int | None,
        position: Callable[[], int],
        on_device: bool = False,
    ) -> DataLoader[Sample]:
        assert self.trainer is not None
        data = self.config.data
        height, width = data.crop_size
        crops = Crops(images, TrainTransform((height, width), data.augmentation), seed=self.config.seed, stream=stream)
        batches = EpochBatches(
            len(images),
            batch_size=self.config.batch_size,
            position=position,
            seed=seed,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )
        if not on_device:
            return DataLoader(crops, batch_sampler=batches, **self._loader_options())
        self.device_crops = DeviceCrops(images, crops.transform, self.trainer.strategy.root_device)
        log.info("device   %d images, %.1f MB in its memory", len(images), self.device_crops.nbytes / 1e6)
        options = {**self._loader_options(), "collate_fn": default_collate}
        return DataLoader(DrawnChanges(crops), batch_sampler=batches, **options)

    def _on_gpu(self) -> bool:
        assert self.trainer is not None
        return self.trainer.strategy.root_device.type == "cuda"

    @functools.cached_property
    def _ending(self) -> Event:
        """Set when this process ends, before multiprocessing asks its children to."""
        event = multiprocessing.Event()
        atexit.register(event.set)
        return event

    def _loader_options(self) -> dict[str, Any]:
        on_gpu = self._on_gpu()
        workers = self.config.data.num_workers
        if workers is None:
            # On the CPU a worker would only take a core from the model.
            local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
            workers = min(8, max(1, (os.cpu_count() or 1) // local)) if on_gpu else 0
        return {
            "collate_fn": collate,
            "num_workers": workers,
            "persistent_workers": workers > 0,
            "pin_memory": on_gpu,
            "worker_init_fn": functools.partial(_leave_signals_to_the_run, ending=self._ending),
        }


def _leave_signals_to_the_run(worker: int, *, ending: Event) -> None:
    """A cluster signals all processes of a job; a loader process that died of it would fail the last step.

    SIGTERM is also how a process that ends tells its children to end, and waits until they have.
    """

    def end_if_asked(number: int, frame: FrameType | None) -> None:
        if ending.is_set():
            os._exit(0)

    for number in STOP_SIGNALS:
        signal.signal(number, end_if_asked if number == signal.SIGTERM else signal.SIG_IGN)

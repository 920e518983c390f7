"""VOCDataModule: the images of a run, their order and augmentation, and the share of each process.

Results are exact because of three rules. The order of an epoch is a function of (seed, epoch). The augmentation of an
image is a function of (seed, epoch, index). The share of a process is every `world_size`-th image of the global batch.
Therefore the images of a step do not depend on loader processes, on ranks, or on the step from which a run resumed.
Validation assigns whole batches to the ranks, so that the composition of a batch does not depend on their number.
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

from fcn.config import Config, ConfigError
from fcn.config.choices import Protocol
from fcn.data import cache
from fcn.data.datasets import AUGMENTATION, D2L_CROPS, GPU_BATCH_SIZE, Sample, WholeImages, build_crops, collate
from fcn.data.device_crops import DeviceCrops, DrawnChanges
from fcn.data.fingerprint import fingerprint
from fcn.data.image_sets import cache_name, read_pairs, reader_of, split_images, whole_split
from fcn.data.sampling import EpochBatches, Rounds
from fcn.data.set_checks import other_palettes, require_labels, set_warnings, shared_names
from fcn.errors import DataError
from fcn.runs import STOP_SIGNALS

log = logging.getLogger(__name__)


class VOCDataModule(pl.LightningDataModule):
    """Training crops and whole validation images of a dataset.

    Under `data.protocol=d2l` a second validation loader gives random crops of the validation images, in whole batches,
    as the d2l chapter evaluates.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.rounds = Rounds(total_steps=0, length=1)  # set when training starts
        self._saved_round: tuple[int, int] | None = None  # round of the checkpoint from which the run is resumed

    @property
    def splits(self) -> tuple[str, str]:
        """Names of the training and the validation split."""
        return self.config.data.train_split, self.config.data.validation_split

    def prepare_data(self) -> None:
        """Draw the synthetic dataset or, with `data.download=true`, download VOC; write missing caches.

        Called in one process of each machine.
        """
        data = self.config.data
        root = data.locate(prepare=True)
        if data.cache:
            splits = dict.fromkeys(whole_split(data, split) for split in self.splits)
            sets = {cache_name(data, split): read_pairs(data, root, split) for split in splits}
            folder = cache.cache_folder(root, data.cache_dir)
            cache.write_missing_caches(sets, reader=reader_of(data), folder=folder)

    def setup(self, stage: str) -> None:
        data = self.config.data
        root = data.locate(prepare=False)
        self.train_images, self.val_images = (split_images(data, root, split) for split in self.splits)
        self.dropped = 0
        self.warnings = self._check_sets()
        if data.protocol is Protocol.d2l:
            self.d2l_images = self._large_enough(self.val_images)
            num_images = len(self.train_images)
            self.train_images = self._large_enough(self.train_images)
            self.dropped = num_images - len(self.train_images)
            self._check_batch_size(self.d2l_images, data.validation_split)
        self._check_batch_size(self.train_images, data.train_split)

    def _check_sets(self) -> list[str]:
        """Check the masks of both sets, and return a line for everything that may mislead.

        Raises:
            DataError: if the masks of a set contain nothing to learn from or to score.
        """
        data, lines = self.config.data, []
        counted = []
        for split, images in zip(self.splits, (self.train_images, self.val_images), strict=True):
            require_labels(images, split, data.classes)
            if images.facts:
                lines += set_warnings(images.facts, images.pairs, split, data)
                counted.append((images.facts, images.pairs))
        if len(counted) == len(self.splits):
            lines += other_palettes(counted, self.splits, self.train_images.reader)
        return lines + shared_names(self.train_images.pairs, self.val_images.pairs, self.splits)

    def _check_batch_size(self, images: WholeImages, split: str) -> None:
        if len(images) < self.config.batch_size:
            raise ConfigError(
                f"batch_size (={self.config.batch_size}) must not exceed the {len(images)} images of {split}, because "
                f"partial batches are dropped; use batch_size={len(images)} or less"
            )

    def _large_enough(self, images: WholeImages) -> WholeImages:
        height, width = self.config.data.crop_size
        kept = [index for index, (h, w) in enumerate(images.sizes()) if h >= height and w >= width]
        if not kept:
            raise DataError(
                f"data.crop_size (={height}x{width}) must fit into an image, because data.protocol=d2l drops smaller "
                f"images, and all {len(images)} are smaller; use a smaller crop or data.protocol=voc"
            )
        return images.select(kept)

    @functools.cached_property
    def fingerprint(self) -> dict[str, Any]:
        """Number and hash of the images of each set, see `fcn.data.fingerprint`."""
        sets = {"train": self.train_images, "val": self.val_images}
        return {name: fingerprint(images.pairs, images.reader.identity) for name, images in sets.items()}

    @functools.cached_property
    def _ignores_exif(self) -> bool:
        """Whether images have an EXIF orientation that is not applied, which predictions then ignore too."""
        if self.train_images.reader.upright:
            return False
        return any(images.has_turned() for images in (self.train_images, self.val_images))

    def state_dict(self) -> dict[str, Any]:
        return {
            "fingerprint": self.fingerprint,
            "steps_per_epoch": self.steps_per_epoch,
            "round": [self.rounds.start, self.rounds.end],
            "ignores_exif": self._ignores_exif,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Check that the images are those of the checkpoint, whose order and augmentation continue.

        Raises:
            ConfigError: if they differ and `allow` does not contain data, or the steps per epoch differ too.
        """
        if saved := state_dict.get("round"):  # earlier versions had no rounds but epochs
            self._saved_round = saved[0], saved[1]
        before = state_dict["fingerprint"]
        if before == self.fingerprint:
            return
        now = self.fingerprint
        counts = ", ".join(f"{name}: {before[name]['images']}, now {now[name]['images']}" for name in now)
        place = f"data.root (={self.config.data.root})"
        if extra := getattr(self.config.data, "extra_roots", None):
            place += f" with data.extra_roots (={extra}), whose folder names are part of the names of their images,"
        change = f"{place} contains other images than at the start of the run ({counts})"
        if state_dict["steps_per_epoch"] != self.steps_per_epoch:
            raise ConfigError(f"{change}; restore them, or start a new run with model.init_from=<this run>")
        if "data" not in self.config.allow:
            remedy = "restore them, or add 'allow=[data]'; the result is then not bit-identical"
            raise ConfigError(f"{change}; {remedy}")
        log.info("changed  %s", change)

    @property
    def steps_per_epoch(self) -> int:
        return len(self.train_images) // self.config.batch_size

    @property
    def total_steps(self) -> int:
        """Number of steps of the run."""
        config = self.config
        return config.steps if config.epochs is None else config.epochs * self.steps_per_epoch  # type: ignore[return-value]

    def train_dataloader(self) -> DataLoader[Sample]:
        assert self.trainer is not None
        loop: Any = self.trainer.fit_loop
        progress = loop.epoch_loop.batch_progress
        self.rounds = self._rounds_from(progress.total.processed)
        loop.max_epochs = loop.epoch_progress.current.processed + self.rounds.count_from(progress.total.processed)
        options: dict[str, Any] = {
            "rounds": self.rounds,
            "stream": AUGMENTATION,
            "seed": self.config.seed,
            "on_device": self.config.data.on_device,
        }
        # `processed` counts the finished steps over all epochs; `ready` and current_epoch are off by one at times.
        return self._crop_loader(self.train_images, position=lambda: progress.total.processed, **options)

    def _rounds_from(self, step: int) -> Rounds:
        """Return the rounds of a run that has made `step` steps; a round in progress ends where it was planned to.

        Raises:
            ConfigError: if the run has been shortened to steps that it has already made.
        """
        length = self.config.trainer.val_every_steps or self.steps_per_epoch
        rounds = Rounds(self.total_steps, length)
        start, end = self._saved_round or (step // length * length, step // length * length + length)
        in_progress = start < step < end
        if step > self.total_steps or (in_progress and step == self.total_steps):
            key = "steps" if self.config.epochs is None else "epochs"
            raise ConfigError(
                f"{key} (={getattr(self.config, key)}) must give more steps than the {step} that the run has made; use "
                f"more {key}"
            )
        if in_progress:
            rounds.start, rounds.end = start, min(end, self.total_steps)
        return rounds

    def transfer_batch_to_device(self, batch: Sample, device: torch.device, dataloader_idx: int) -> Sample:
        """Move the batch to the device or, under `data.on_device`, make its crops there."""
        if "nearest_rows" in batch:
            return self.device_crops(batch)
        moved: Sample = super().transfer_batch_to_device(batch, device, dataloader_idx)
        return moved

    def val_batches(self, rank: int) -> list[list[int]]:
        """Return the validation batches of a process, as indices of their images."""
        assert self.trainer is not None
        batch_size = self.config.trainer.val_batch_size or (GPU_BATCH_SIZE if self._on_gpu() else 1)
        return self.val_images.batches(batch_size)[rank :: self.trainer.world_size]

    def val_dataloader(self) -> list[DataLoader[Sample]]:
        trainer = self.trainer
        assert trainer is not None
        share = self.val_batches(trainer.global_rank)
        # Lightning would skip the validation in a rank without a batch, and the other ranks would wait for its scores.
        loaders = [DataLoader(self.val_images, batch_sampler=share or [[]], **self._loader_options())]
        if self.config.data.protocol is Protocol.d2l:
            steps = len(self.d2l_images) // self.config.batch_size
            position = lambda: trainer.current_epoch * steps  # noqa: E731
            loaders.append(self._crop_loader(self.d2l_images, stream=D2L_CROPS, seed=None, position=position))
        return loaders

    def _crop_loader(
        self,
        images: WholeImages,
        *,
        stream: int,
        seed: int | None,
        position: Callable[[], int],
        rounds: Rounds | None = None,
        on_device: bool = False,
    ) -> DataLoader[Sample]:
        assert self.trainer is not None
        crops = build_crops(images, self.config, stream=stream)
        batches = EpochBatches(
            len(images),
            batch_size=self.config.batch_size,
            position=position,
            seed=seed,
            rounds=rounds,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
        )
        if not on_device:
            return DataLoader(crops, batch_sampler=batches, **self._loader_options())
        self.device_crops = DeviceCrops(images, crops.transform, self.trainer.strategy.root_device)
        log.info("device   %d images, %.1f MB of its memory", len(images), self.device_crops.nbytes / 1e6)
        options = {**self._loader_options(), "collate_fn": default_collate}
        return DataLoader(DrawnChanges(crops), batch_sampler=batches, **options)

    def _on_gpu(self) -> bool:
        assert self.trainer is not None
        return self.trainer.strategy.root_device.type == "cuda"

    @functools.cached_property
    def _ending(self) -> Event:
        """Set when this process ends, before multiprocessing terminates its children."""
        event = multiprocessing.Event()
        atexit.register(event.set)
        return event

    def _loader_options(self) -> dict[str, Any]:
        on_gpu = self._on_gpu()
        workers = self.config.data.num_workers
        if workers is None:
            # On a CPU, loader processes would only take cores from the network.
            local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
            workers = min(8, max(1, (os.cpu_count() or 1) // local)) if on_gpu else 0
        return {
            "collate_fn": collate,
            "num_workers": workers,
            "persistent_workers": workers > 0,
            "pin_memory": on_gpu,
            "worker_init_fn": functools.partial(_ignore_stop_signals, ending=self._ending),
        }


def _ignore_stop_signals(worker: int, *, ending: Event) -> None:
    """Ignore stop signals in a loader process: clusters signal all processes of a job, and the last step needs data.

    SIGTERM ends the loader process if its parent is ending: multiprocessing then sends it to all children and waits.
    """

    def exit_with_parent(number: int, frame: FrameType | None) -> None:
        if ending.is_set():
            os._exit(0)

    for number in STOP_SIGNALS:
        signal.signal(number, exit_with_parent if number == signal.SIGTERM else signal.SIG_IGN)

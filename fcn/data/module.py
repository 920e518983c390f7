"""VOCDataModule: which images, in which order, changed how, for which process.

Exactness rests on three functions. The order of an epoch is a function of (seed, epoch). The augmentation of an
image is a function of (seed, epoch, index). The share of a process is every `world_size`-th image of the global
batch. So the images of a step do not depend on workers, processes, or on where a resumed run started.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from fcn.config import Config, ConfigError, DataConfig, DatasetName, Protocol
from fcn.data import shapes, voc
from fcn.data.transforms import TrainTransform
from fcn.data.voc import DataError, Pair
from fcn.provenance import fingerprint
from fcn.runs import STOP_SIGNALS

# First number after the seed: keeps the streams of different purposes apart.
ORDER, AUGMENTATION, CHAPTER_CROPS = range(3)

Sample = dict[str, Tensor]
Key = tuple[int, int]  # (epoch, index of the image)


class WholeImages(Dataset[Sample]):
    """Images at native size: `image` uint8 [3, H, W] and `mask` uint8 [H, W]."""

    def __init__(self, pairs: list[Pair], *, num_classes: int) -> None:
        self.pairs = pairs
        self.num_classes = num_classes

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        image, mask = voc.read_pair(self.pairs[index], self.num_classes)
        return {"image": image, "mask": mask}


class Crops(Dataset[Sample]):
    """Augmented crops, all of one size: `image` uint8 [3, h, w] and `mask` uint8 [h, w] for a key (epoch, index)."""

    def __init__(self, images: WholeImages, transform: TrainTransform, *, seed: int, stream: int) -> None:
        self.images = images
        self.transform = transform
        self.seed = seed
        self.stream = stream

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: Key) -> Sample:
        epoch, index = key
        sample = self.images[index]
        rng = np.random.default_rng([self.seed, self.stream, epoch, index])
        image, mask = self.transform(sample["image"], sample["mask"], rng)
        return {"image": image, "mask": mask}


class EpochBatches(Sampler[list[Key]]):
    """Keys of one process's share of every global batch of an epoch; the last partial batch is dropped.

    Args:
        num_images: size of the set.
        batch_size: images of a step over all processes.
        position: global steps done so far: says in which epoch, and where in it, the next iteration starts.
        seed: of the order; None keeps the images in the order of their list.
        rank: of this process among `world_size`.
        world_size: number of processes; must divide `batch_size`.
    """

    def __init__(
        self,
        num_images: int,
        *,
        batch_size: int,
        position: Callable[[], int],
        seed: int | None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.num_images = num_images
        self.batch_size = batch_size
        self.position = position
        self.seed = seed
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        return self.num_images // self.batch_size

    def order(self, epoch: int) -> list[int]:
        """All image indices in the order of `epoch`."""
        if self.seed is None:
            return list(range(self.num_images))
        rng = np.random.default_rng([self.seed, ORDER, epoch])
        return [int(index) for index in rng.permutation(self.num_images)]

    def __iter__(self) -> Iterator[list[Key]]:
        epoch, done = divmod(self.position(), len(self))
        order = self.order(epoch)
        for step in range(done, len(self)):
            batch = order[step * self.batch_size : (step + 1) * self.batch_size]
            yield [(epoch, index) for index in batch[self.rank :: self.world_size]]


class Share(Sampler[int]):
    """Every `world_size`-th image from `rank` on: each image once, nothing padded, whatever the number of processes."""

    def __init__(self, num_images: int, *, rank: int, world_size: int) -> None:
        self.indices = range(rank, num_images, world_size)

    def __len__(self) -> int:
        return len(self.indices)

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)


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
        """Draw the embedded set, or download VOC if asked to. Called in one process of each machine."""
        locate(self.config.data, prepare=True)

    def setup(self, stage: str) -> None:
        data = self.config.data
        root = locate(data, prepare=False)
        self.train_images = self._images(root, data.train_split)
        self.val_images = self._images(root, data.val_split)
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

    def _images(self, root: Path, split: str) -> WholeImages:
        return WholeImages(voc.read_split(root, split), num_classes=len(self.config.data.classes))

    def _large_enough(self, images: WholeImages) -> WholeImages:
        height, width = self.config.data.crop_size
        sizes = [voc.image_size(pair.image) for pair in images.pairs]
        kept = [p for p, (h, w) in zip(images.pairs, sizes, strict=True) if h >= height and w >= width]
        if not kept:
            raise DataError(
                f"data.crop_size (={height}x{width}) must fit into some image, because data.protocol=d2l drops "
                f"smaller ones and all {len(images)} are smaller; use a smaller crop or data.protocol=voc"
            )
        return WholeImages(kept, num_classes=images.num_classes)

    def fingerprint(self) -> dict[str, Any]:
        """What tells this data from other: number and hash of the images of each set, see `fcn.provenance`."""
        sets = {"train": self.train_images, "val": self.val_images}
        return {name: fingerprint(images.pairs) for name, images in sets.items()}

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
        )

    def val_dataloader(self) -> list[DataLoader[Sample]]:
        trainer = self.trainer
        assert trainer is not None
        share = Share(len(self.val_images), rank=trainer.global_rank, world_size=trainer.world_size)
        loaders = [DataLoader(self.val_images, sampler=share, **self._loader_options())]
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
        self, images: WholeImages, *, stream: int, seed: int | None, position: Callable[[], int]
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
        return DataLoader(crops, batch_sampler=batches, **self._loader_options())

    def _loader_options(self) -> dict[str, Any]:
        assert self.trainer is not None
        on_gpu = self.trainer.strategy.root_device.type == "cuda"
        workers = self.config.data.num_workers
        if workers is None:
            # On the CPU a worker would only take a core from the model.
            local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
            workers = min(8, max(1, (os.cpu_count() or 1) // local)) if on_gpu else 0
        return {
            "num_workers": workers,
            "persistent_workers": workers > 0,
            "pin_memory": on_gpu,
            "worker_init_fn": _leave_signals_to_the_run,
        }


def _leave_signals_to_the_run(worker: int) -> None:
    """A cluster signals all processes of a job; a loader process that died of it would fail the last step."""
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def locate(data: DataConfig, *, prepare: bool) -> Path:
    """Folder that holds VOCdevkit/VOC2012; with `prepare`, after drawing or downloading what is absent."""
    root = Path(data.root)
    if data.name is DatasetName.shapes:
        if data.classes != list(shapes.CLASSES):
            raise ConfigError(f"data.classes must be the embedded set's own under data=shapes: {list(shapes.CLASSES)}")
        size = data.shapes
        return shapes.ensure_shapes(root / "shapes", num_train=size.num_train, num_val=size.num_val, seed=size.seed)
    if prepare and data.download:
        voc.download(root)
    return root

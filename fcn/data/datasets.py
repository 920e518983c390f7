"""torch datasets of a split: whole images, and augmented crops."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, default_collate

from fcn.config import IGNORE_INDEX, Config, ConfigError
from fcn.data.cache import DecodedImages
from fcn.data.image_decoding import Size, stored_orientation
from fcn.data.pair_reader import PairReader
from fcn.data.set_facts import SetFacts
from fcn.data.split_lists import Pair
from fcn.data.transforms import TrainTransform

Sample = dict[str, Tensor]
Key = tuple[int, int]  # (epoch, index of the image)
CropTransform = Callable[[Tensor, Tensor, np.random.Generator], tuple[Tensor, Tensor]]

# The number after the seed separates the random streams of different purposes.
ORDER, AUGMENTATION, D2L_CROPS = range(3)

GPU_BATCH_SIZE = 8
"""Default number of whole images validated or evaluated at once on a GPU; on the CPU it is 1."""


def collate(samples: Sequence[Sample]) -> Sample:
    """Batch samples of one size: `image` uint8 [N, 3, H, W] with channels last, and `mask` uint8 [N, H, W].

    Without samples, N = 0 and the size is 1 x 1.
    """
    if not samples:
        return {"image": torch.empty(0, 3, 1, 1, dtype=torch.uint8), "mask": torch.empty(0, 1, 1, dtype=torch.uint8)}
    batch: Sample = default_collate([{**sample, "image": sample["image"].permute(1, 2, 0)} for sample in samples])
    return {**batch, "image": batch["image"].permute(0, 3, 1, 2)}


class WholeImages(Dataset[Sample]):
    """Images at native size: `image` uint8 [3, H, W] and `mask` uint8 [H, W].

    Args:
        pairs: images and masks of the set.
        reader: reader of the pairs.
        decoded: cache of the same set; without it an image is decoded at every use.
    """

    def __init__(self, pairs: Sequence[Pair], *, reader: PairReader, decoded: DecodedImages | None = None) -> None:
        self.pairs = list(pairs)
        self.reader = reader
        self.decoded = decoded

    @property
    def num_classes(self) -> int:
        """Number of classes that the masks are checked for."""
        return self.reader.num_classes

    @property
    def facts(self) -> SetFacts | None:
        """Facts on the images and masks; None if they are not cached."""
        return self.decoded.facts if self.decoded else None

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        image, mask = self.read(index)
        # Cached tensors are views of a read-only mapping: writing to one would crash the process.
        return {"image": image.clone(), "mask": mask.clone()} if self.decoded else {"image": image, "mask": mask}

    def read(self, index: int) -> tuple[Tensor, Tensor]:
        """Return image and mask, which must not be written to.

        Raises:
            DataError: if the pair is not cached and cannot be decoded.
        """
        return self.decoded[index] if self.decoded else self.reader.read(self.pairs[index])

    def sizes(self) -> list[Size]:
        """Return height and width of every image.

        Raises:
            DataError: if an image has no readable header.
        """
        return self.decoded.sizes if self.decoded else [self.reader.size(pair.image) for pair in self.pairs]

    def has_turned(self) -> bool:
        """Whether an image has an EXIF orientation other than upright; without facts, headers are read.

        Raises:
            DataError: if an image has no readable header.
        """
        if self.facts:
            return bool((self.facts.orientations > 1).any())
        return any(stored_orientation(pair.image) > 1 for pair in self.pairs)

    def select(self, indices: Sequence[int]) -> WholeImages:
        """Return a subset of the images."""
        decoded = self.decoded.select(indices) if self.decoded else None
        return WholeImages([self.pairs[i] for i in indices], reader=self.reader, decoded=decoded)

    def batches(self, batch_size: int) -> list[list[int]]:
        """Return all indices in groups of at most `batch_size` images of equal size; in order if that is 1.

        Raises:
            DataError: if an image has no readable header, which a batch size of 1 does not need.
        """
        if batch_size == 1:
            return [[index] for index in range(len(self))]
        same_size: dict[Size, list[int]] = {}
        for index, size in enumerate(self.sizes()):
            same_size.setdefault(size, []).append(index)
        groups = same_size.values()
        return [group[start : start + batch_size] for group in groups for start in range(0, len(group), batch_size)]


class Crops(Dataset[Sample]):
    """Augmented crops of one size: `image` uint8 [3, h, w] and `mask` uint8 [h, w] for a key (epoch, index).

    Args:
        images: images with their masks.
        transform: crop and augmentation.
        seed: seed of the run.
        stream: number that separates the random numbers from those of other purposes.
        transforms: changes of the augmented crop by the name of their option, see `TransformConfig.build`.
    """

    def __init__(
        self,
        images: WholeImages,
        transform: TrainTransform,
        *,
        seed: int,
        stream: int,
        transforms: Mapping[str, CropTransform] | None = None,
    ) -> None:
        self.images = images
        self.transform = transform
        self.seed = seed
        self.stream = stream
        self.transforms = dict(transforms or {})

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, key: Key) -> Sample:
        image, mask = self.transform(*self.images.read(key[1]), self.rng(key))
        for name, transform in self.transforms.items():
            shapes = (image.shape, mask.shape)
            image, mask = transform(image, mask, self.rng(key, _number_of(name)))
            if (image.shape, mask.shape) != shapes or {image.dtype, mask.dtype} != {torch.uint8}:
                raise ConfigError(
                    f"transforms (={name}) must return image and mask in uint8 and of the same sizes, but returns "
                    f"{image.dtype} {list(image.shape)} and {mask.dtype} {list(mask.shape)}; correct the transform"
                )
            self._require_classes(mask, name)
        return {"image": image, "mask": mask}

    def _require_classes(self, mask: Tensor, name: str) -> None:
        """Check the values of a mask that a transform returns."""
        invalid = mask[(mask >= self.images.num_classes) & (mask != IGNORE_INDEX)]
        if invalid.numel():
            raise ConfigError(
                f"transforms (={name}) must return a mask of the classes 0 to {self.images.num_classes - 1} and "
                f"{IGNORE_INDEX} (void), but returns {sorted(set(invalid.tolist()))[:5]}; correct the transform"
            )

    def rng(self, key: Key, *purpose: int) -> np.random.Generator:
        """Return the random generator of a sample, or that of one of its transforms."""
        return np.random.default_rng([self.seed, self.stream, *key, *purpose])


def build_crops(images: WholeImages, config: Config, *, stream: int = AUGMENTATION) -> Crops:
    """Return the crops of a run: its training crops, or the crops that `data.protocol=d2l` evaluates."""
    data, transforms = config.data, {}
    height, width = data.crop_size
    transform = TrainTransform((height, width), data.augmentation)
    if stream == D2L_CROPS:  # the metrics of the d2l chapter count void, and other changes than its own mislead
        unchanged = replace(data.augmentation, grayscale=0, blur=0, rotation=0)
        transform = replace(transform, augmentation=unchanged)
    else:
        transform = replace(transform, cat_max_ratio=data.cat_max_ratio)
        transforms = {name: option.build() for name, option in config.transforms.items()}
    return Crops(images, transform, seed=config.seed, stream=stream, transforms=transforms)


def _number_of(name: str) -> int:
    """Return a number for the name of a transform, so that its random numbers do not depend on other transforms."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")

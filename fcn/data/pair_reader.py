"""Reading of pairs of an image and its mask: one way for training, evaluation, statistics and the cache."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from fcn.config.choices import MaskFormat
from fcn.data.image_decoding import Size, decode, image_size, orientation, rgb_pixels
from fcn.data.mask_formats import MaskReader
from fcn.data.set_facts import FileFacts, mask_counts
from fcn.data.split_lists import Pair
from fcn.errors import DataError


@dataclass(frozen=True)
class PairReader:
    """Reads images and masks.

    Attributes:
        masks: reader of the masks.
        upright: whether the EXIF orientation of an image is applied.
    """

    masks: MaskReader
    upright: bool = False

    @property
    def num_classes(self) -> int:
        """Number of classes that masks may contain."""
        return self.masks.num_classes

    @property
    def identity(self) -> str:
        """Text that differs between readers that may read files differently; empty for reading as VOC's files."""
        return f"{self.masks.identity} {'upright' if self.upright else ''}".strip()

    def read(self, pair: Pair) -> tuple[Tensor, Tensor]:
        """Return image, uint8 [3, H, W] RGB, and mask, uint8 [H, W], of one pair.

        Raises:
            DataError: if a file cannot be read, see `read_image` and `MaskReader.read`, or the sizes differ.
        """
        return self._tensors(pair, decode(pair.image), decode(pair.mask))

    def inspect(self, pair: Pair) -> tuple[Tensor, Tensor, FileFacts]:
        """Return image and mask, as `read`, and the facts on them.

        Raises:
            DataError: as `read`.
        """
        image, mask = decode(pair.image), decode(pair.mask)
        turn = orientation(image)
        pixels, labels = self._tensors(pair, image, mask)
        counts = mask_counts(labels, self.num_classes)
        if self.masks.mask_format is not MaskFormat.palette or mask.mode != "P":
            return pixels, labels, FileFacts(counts, turn)
        indices = np.flatnonzero(np.bincount(np.asarray(mask).ravel()))
        return pixels, labels, FileFacts(counts, turn, bytes(mask.getpalette() or ()), tuple(indices.tolist()))

    def _tensors(self, pair: Pair, decoded: Image.Image, decoded_mask: Image.Image) -> tuple[Tensor, Tensor]:
        image = rgb_pixels(decoded, pair.image, upright=self.upright)
        mask = self.masks.classes(decoded_mask, pair.mask)
        if image.shape[1:] != mask.shape:
            height, width = image.shape[1:]
            problem = f"{pair.image} ({height}, {width}) must have the size of {pair.mask} {tuple(mask.shape)}"
            raise DataError(problem, self._size_remedy(decoded, turned=tuple(mask.shape) == (width, height)))
        return image, mask

    def size(self, path: Path) -> Size:
        """Return height and width of an image; see `image_size`."""
        return image_size(path, upright=self.upright)

    def _size_remedy(self, image: Image.Image, *, turned: bool) -> str:
        turn = orientation(image)
        if turned and turn > 4:
            other = "ignore" if self.upright else "apply"
            return f"use data.exif={other}, because the image has the EXIF orientation {turn}, which turns it"
        return "restore both from the same archive"

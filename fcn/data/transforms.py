"""Joint augmentation of a training image and its mask.

The steps, in this order: random crop, scale, colour jitter, padding, flip. The part that the crop will show
is cut out of the image before it is scaled, so that no step works on more pixels than the crop needs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from fcn.config import IGNORE_INDEX, AugmentationConfig

# The mean of ImageNet, 255 * (0.485, 0.456, 0.406): nearly zero once the image is normalised for the model.
PAD_COLOR = (124, 116, 104)


@dataclass(frozen=True)
class TrainTransform:
    """Random crop of exactly `crop_size` with random changes; by default the chapter's plain random crop.

    Scale: uniform in `augmentation.scale`; antialiased bilinear for the image and nearest neighbour for the
    mask, at the same pixel centres. Whole source pixels are cut out: the scale is met to half a source pixel.
    Crop: every place inside the image is equally likely. Along an axis where the scaled image is smaller than
    the crop, all of it is shown, padded to a random place: the two borders are treated alike, and the image
    meets the strides of the network in every phase. Padding is `PAD_COLOR`, and 255 in the mask.
    Jitter: brightness, contrast, saturation, hue, in this fixed order, before padding, so that the padding
    neither changes nor takes part in the mean that contrast refers to.

    Attributes:
        crop_size: height and width of what comes back, pixels.
        augmentation: ranges and probabilities of the changes.
    """

    crop_size: tuple[int, int]
    augmentation: AugmentationConfig

    def __call__(self, image: Tensor, mask: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Image, uint8 [3, h, w], and mask, uint8 [h, w], of `crop_size`, in memory of their own.

        Args:
            image: uint8 [3, H, W], RGB.
            mask: uint8 [H, W].
            rng: source of all randomness. Eight numbers are drawn whatever the settings, so that switching
                one change on leaves the others as they were.
        """
        assert image.shape[1:] == mask.shape, (image.shape, mask.shape)
        scale, vertical, horizontal, flip, *jitter = rng.random(8).tolist()
        low, high = self.augmentation.scale
        factor = low + (high - low) * scale
        rows = _place(mask.shape[0], crop=self.crop_size[0], factor=factor, position=vertical)
        columns = _place(mask.shape[1], crop=self.crop_size[1], factor=factor, position=horizontal)
        image, mask = _cut(image, mask, rows, columns)
        image, mask = self._pad(self._jitter(image, jitter), mask, rows, columns)
        return (image.flip(-1), mask.flip(-1)) if flip < self.augmentation.flip else (image, mask)

    def _jitter(self, image: Tensor, draws: list[float]) -> Tensor:
        """`image` with every change whose strength is not zero; `draws` are four numbers in [0, 1)."""
        strength = self.augmentation
        brightness, contrast, saturation, hue = (2 * draw - 1 for draw in draws)
        if strength.brightness:
            image = F.adjust_brightness(image, 1 + brightness * strength.brightness)
        if strength.contrast:
            image = F.adjust_contrast(image, 1 + contrast * strength.contrast)
        if strength.saturation:
            image = F.adjust_saturation(image, 1 + saturation * strength.saturation)
        if strength.hue:
            image = F.adjust_hue(image, hue * strength.hue)
        return image

    def _pad(self, image: Tensor, mask: Tensor, rows: _Axis, columns: _Axis) -> tuple[Tensor, Tensor]:
        """Copies of both at their place in padding of `crop_size`.

        Copies, because a crop is a view of the caller's image, which many crops may share.
        """
        padded_image = torch.empty((3, *self.crop_size), dtype=torch.uint8)
        padded_mask = torch.empty(self.crop_size, dtype=torch.uint8)
        if mask.shape != padded_mask.shape:
            padded_image.copy_(torch.tensor(PAD_COLOR, dtype=torch.uint8)[:, None, None])
            padded_mask.fill_(IGNORE_INDEX)
        padded_image[:, rows.target, columns.target] = image
        padded_mask[rows.target, columns.target] = mask
        return padded_image, padded_mask


@dataclass(frozen=True)
class _Axis:
    """Along one axis: which pixels are taken from the image, and where in the crop they go."""

    source: slice
    target: slice
    length: int  # of target


def _place(side: int, *, crop: int, factor: float, position: float) -> _Axis:
    """Place of a crop of `crop` pixels in an image of `side`, scaled by `factor`; `position` in [0, 1)."""
    wanted = max(1, round(crop / factor))
    taken = min(side, wanted)
    length = max(1, round(taken * crop / wanted))
    start = int(position * (side - taken + 1))
    offset = int(position * (crop - length + 1))
    return _Axis(slice(start, start + taken), slice(offset, offset + length), length)


def _cut(image: Tensor, mask: Tensor, rows: _Axis, columns: _Axis) -> tuple[Tensor, Tensor]:
    """The source pixels of both, scaled to the size of the target."""
    image = image[:, rows.source, columns.source]
    mask = mask[rows.source, columns.source]
    size = [rows.length, columns.length]
    if list(mask.shape) == size:
        return image, mask
    # Bilinear samples at pixel centres; NEAREST_EXACT does too, plain NEAREST is off by up to half a pixel.
    return _resample(image, size), F.resize(mask[None], size, InterpolationMode.NEAREST_EXACT)[0]


def _resample(image: Tensor, size: list[int]) -> Tensor:
    # torch 2.15's uint8 kernel gives wrong values or an internal assert for an output one pixel wide.
    source = image.float() if size[1] == 1 else image
    scaled: Tensor = F.resize(source, size, InterpolationMode.BILINEAR, antialias=True)
    return scaled.round().to(torch.uint8) if size[1] == 1 else scaled

"""Joint augmentation of a training image and its mask.

The steps, in this order: random crop, scale, colour jitter, greyscale, blur, padding, flip, rotation. The part of the
image that is visible in the crop is cut out before it is scaled, so that no step processes more pixels than the crop
needs.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from fcn.config import IGNORE_INDEX, AugmentationConfig

# The mean of ImageNet, 255 * (0.485, 0.456, 0.406): nearly zero after normalisation.
PAD_COLOR = (124, 116, 104)

REDRAWS = 10
"""Number of times that the position of a crop is drawn again if one class fills it, as in mmsegmentation."""

BLUR_SIGMA = 0.1, 2.0
"""Range of the standard deviation of the blur, pixels."""


@dataclass(frozen=True)
class TrainTransform:
    """Random crop of exactly `crop_size` with random augmentation; by default the plain random crop of d2l.

    Scale: uniform in `augmentation.scale`, relative to the size of the image, or to the size at which its shorter side
    has `augmentation.short_side` pixels; antialiased bilinear for the image and nearest neighbour for the mask, at
    the same pixel centres. Only whole source pixels are cut out, so the scale is accurate to half a source pixel.
    Crop: every position inside the image is equally likely. Along an axis where the scaled image is smaller than
    the crop, the whole image is visible at a random position between padding, so that both borders are treated
    alike and the position relative to the network's strides varies. Padding is `PAD_COLOR`, and 255 in the mask.
    Jitter: brightness, contrast, saturation, hue, in this fixed order, before padding, so that the padding
    keeps its colour and does not enter the mean that contrast refers to.

    Attributes:
        crop_size: height and width of the crop, pixels.
        augmentation: ranges and probabilities.
        cat_max_ratio: share of one class in the pixels of a crop from which its position is drawn again; 1: never.
    """

    crop_size: tuple[int, int]
    augmentation: AugmentationConfig
    cat_max_ratio: float = 1.0

    def __call__(self, image: Tensor, mask: Tensor, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return image, uint8 [3, h, w], channels last, and mask, uint8 [h, w], of `crop_size`, in their own memory.

        Args:
            image: uint8 [3, H, W], RGB; fastest with channels last in memory.
            mask: uint8 [H, W].
            rng: source of all randomness.
        """
        assert image.shape[1:] == mask.shape, (image.shape, mask.shape)
        height, width = mask.shape
        change = self.draw((height, width), rng, lambda: mask)
        image, mask = _cut(image, mask, change.rows, change.columns)
        pixels = self.jitter(image, change.jitter).permute(1, 2, 0)
        padded = self._pad(pixels, PAD_COLOR, change).permute(2, 0, 1), self._pad(mask, (IGNORE_INDEX,), change)
        return self.rotate(*padded, change.jitter)

    def draw(self, size: tuple[int, int], rng: np.random.Generator, mask: Callable[[], Tensor]) -> Change:
        """Draw the random parameters for an image.

        The numbers are drawn independently of the settings, so that enabling one change leaves the others unchanged.

        Args:
            size: height and width of the image.
            rng: source of all randomness.
            mask: returns the mask of the image, which is needed only with `cat_max_ratio`.
        """
        scale, vertical, horizontal, flip, *jitter = rng.random(8).tolist()
        jitter += rng.random(4).tolist()
        low, high = self.augmentation.scale
        factor = low + (high - low) * scale
        if self.augmentation.short_side:
            factor *= self.augmentation.short_side / min(size)

        def places(vertical: float, horizontal: float) -> tuple[Axis, Axis]:
            rows = _place(size[0], crop=self.crop_size[0], factor=factor, position=vertical)
            return rows, _place(size[1], crop=self.crop_size[1], factor=factor, position=horizontal)

        rows, columns = places(vertical, horizontal)
        if self.cat_max_ratio < 1:
            labels = mask().numpy()
            for _ in range(REDRAWS):
                if _is_mixed(labels[rows.source, columns.source], self.cat_max_ratio):
                    break
                rows, columns = places(*rng.random(2).tolist())
        return Change(rows, columns, flip=flip < self.augmentation.flip, jitter=jitter)

    def jitter(self, image: Tensor, draws: list[float]) -> Tensor:
        """Apply every colour change whose strength is not zero, and the blur; `draws` are those of `Change.jitter`."""
        strength = self.augmentation
        brightness, contrast, saturation, hue = (2 * draw - 1 for draw in draws[:4])
        grayscale, blur, sigma = draws[4:7]
        if strength.brightness:
            image = F.adjust_brightness(image, 1 + brightness * strength.brightness)
        if strength.contrast:
            image = F.adjust_contrast(image, 1 + contrast * strength.contrast)
        if strength.saturation:
            image = F.adjust_saturation(image, 1 + saturation * strength.saturation)
        if strength.hue:
            image = F.adjust_hue(image, hue * strength.hue)
        if grayscale < strength.grayscale:
            image = F.rgb_to_grayscale(image, num_output_channels=3)
        return _blurred(image, sigma) if blur < strength.blur else image

    def rotate(self, image: Tensor, mask: Tensor, draws: list[float]) -> tuple[Tensor, Tensor]:
        """Return a crop and its mask rotated about the centre, with padding in the corners."""
        angle = (2 * draws[7] - 1) * self.augmentation.rotation
        if not angle:
            return image, mask
        turned = F.rotate(image, angle, InterpolationMode.BILINEAR, fill=list(map(float, PAD_COLOR)))
        labels = F.rotate(mask[None], angle, InterpolationMode.NEAREST, fill=[float(IGNORE_INDEX)])
        return turned.permute(1, 2, 0).contiguous().permute(2, 0, 1), labels[0]

    def _pad(self, pixels: Tensor, color: tuple[int, ...], change: Change) -> Tensor:
        """Copy uint8 [H, W, ...] to its place in padding of `crop_size`, flipped if drawn.

        The pixels are copied, because they are a view of the caller's image, which several crops may share.
        """
        columns = change.columns.target
        if change.flip:
            pixels, width = pixels.flip(1), self.crop_size[1]
            columns = slice(width - columns.stop, width - columns.start)
        if pixels.shape[:2] == self.crop_size:
            return pixels.contiguous() if change.flip else pixels.clone(memory_format=torch.contiguous_format)
        padded = _padding(*self.crop_size, color).view(*self.crop_size, *pixels.shape[2:]).clone()
        padded[change.rows.target, columns] = pixels
        return padded


@functools.lru_cache(maxsize=16)  # copying is several times as fast as filling
def _padding(height: int, width: int, color: tuple[int, ...]) -> Tensor:
    """Return an image of one colour, uint8 [H, W, C]."""
    return torch.tensor(color, dtype=torch.uint8).expand(height, width, len(color)).contiguous()


@dataclass(frozen=True)
class Axis:
    """Source pixels in the image and target pixels in the crop, along one axis."""

    source: slice
    target: slice

    @property
    def taken(self) -> int:
        """Number of source pixels."""
        return int(self.source.stop - self.source.start)

    @property
    def length(self) -> int:
        """Number of target pixels."""
        return int(self.target.stop - self.target.start)


@dataclass(frozen=True)
class Change:
    """Random parameters of a sample: position, horizontal flip, and eight numbers in [0, 1).

    The numbers are for brightness, contrast, saturation, hue, greyscale, blur, the strength of the blur, and rotation.
    """

    rows: Axis
    columns: Axis
    flip: bool
    jitter: list[float]


def _place(side: int, *, crop: int, factor: float, position: float) -> Axis:
    """Return the place of a crop of `crop` pixels in an image of `side`, scaled by `factor`; `position` in [0, 1)."""
    needed = max(1, round(crop / factor))
    taken = min(side, needed)
    length = max(1, round(taken * crop / needed))
    start = int(position * (side - taken + 1))
    offset = int(position * (crop - length + 1))
    return Axis(slice(start, start + taken), slice(offset, offset + length))


def _is_mixed(labels: NDArray[np.uint8], ratio: float) -> bool:
    """Whether a part of a mask has several classes, and none of them at least this share of the pixels without void."""
    counts = np.bincount(labels.ravel(), minlength=IGNORE_INDEX + 1)[:IGNORE_INDEX]
    return bool(np.count_nonzero(counts) > 1 and counts.max() < ratio * counts.sum())


def _blurred(image: Tensor, draw: float) -> Tensor:
    low, high = BLUR_SIGMA
    sigma = low + (high - low) * draw
    radius = min(math.ceil(3 * sigma), *(side - 1 for side in image.shape[-2:]))  # reflected borders need more pixels
    return F.gaussian_blur(image, [2 * radius + 1] * 2, [sigma, sigma]) if radius else image


def _cut(image: Tensor, mask: Tensor, rows: Axis, columns: Axis) -> tuple[Tensor, Tensor]:
    """Return the source pixels of image and mask, scaled to the size of the target."""
    image = image[:, rows.source, columns.source]
    mask = mask[rows.source, columns.source]
    size = [rows.length, columns.length]
    if list(mask.shape) == size:
        return image, mask
    chosen = mask.numpy().take(nearest_pixels(columns.taken, columns.length), axis=1)
    return _resample(image, size), torch.from_numpy(chosen.take(nearest_pixels(rows.taken, rows.length), axis=0))


# Enough for all source lengths of a scale in [0.5, 2] and a side of 480.
@functools.lru_cache(maxsize=1024)
def nearest_pixels(taken: int, length: int) -> NDArray[np.int64]:
    """Return the nearest of `taken` source pixels for each of `length` target pixels, int64 [length]."""
    # Bilinear samples at pixel centres; NEAREST_EXACT does too, plain NEAREST is off by up to half a pixel.
    numbers = torch.arange(taken, dtype=torch.float32).view(1, 1, -1)
    table: NDArray[np.int64] = F.resize(numbers, [1, length], InterpolationMode.NEAREST_EXACT).flatten().long().numpy()
    return table


def _resample(image: Tensor, size: list[int]) -> Tensor:
    # Twice as fast with channels last in contiguous memory.
    source = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    # For an output one pixel wide torch 2.15 is wrong with uint8, and with channels first in memory.
    scaled: Tensor = F.resize(source.float() if size[1] == 1 else source, size, antialias=True)
    return scaled.round().to(torch.uint8) if size[1] == 1 else scaled

"""Crops that are cut, scaled and changed on the device, a batch at a time, out of images that all lie there.

The processor only draws what is to be done, from the same numbers as `TrainTransform`. Scaling does the arithmetic of
torch's uint8 kernel for processors with AVX2, in the same integers, so that the pixels are the same too. What may
differ is crops one pixel wide, by a level, and the jitter, whose floating-point sums a GPU adds up in another order.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from fcn.config import IGNORE_INDEX, ConfigError
from fcn.data.datasets import Crops, Key, Sample, WholeImages
from fcn.data.prefetch import read_ahead
from fcn.data.transforms import PAD_COLOR, Axis, TrainTransform, nearest_pixels

Changes = dict[str, Tensor]


class DrawnChanges(Dataset[Changes]):
    """What `crops` does to the image of a key (epoch, index), to be done by `DeviceCrops`.

    A sample has `index`, `flip`, `jitter` [4]; for both axes `rows` and `columns` [4], which are start and length of
    what is taken from the image, start and length of where it goes; and for every pixel of the crop the one of the
    image that is nearest, or -1 for padding, `nearest_rows` [h] and `nearest_columns` [w].
    """

    def __init__(self, crops: Crops) -> None:
        self.crops = crops
        self.sizes = crops.images.sizes()

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, key: Key) -> Changes:
        transform = self.crops.transform
        change = transform.draw(self.sizes[key[1]], self.crops.rng(key))
        height, width = transform.crop_size
        return {
            "index": torch.tensor(key[1]),
            "flip": torch.tensor(change.flip),
            "jitter": torch.tensor(change.jitter, dtype=torch.float64),
            "rows": _numbers(change.rows),
            "columns": _numbers(change.columns),
            "nearest_rows": _nearest(change.rows, height),
            "nearest_columns": _nearest(change.columns, width),
        }


def _numbers(axis: Axis) -> Tensor:
    return torch.tensor([axis.source.start, axis.taken, axis.target.start, axis.length])


def _nearest(axis: Axis, size: int) -> Tensor:
    table = np.full(size, -1)
    table[axis.target] = axis.source.start + nearest_pixels(axis.taken, axis.length)
    return torch.from_numpy(table)


class DeviceCrops:
    """Turns drawn changes into the samples that `Crops` gives.

    Args:
        images: copied to the device, 4 bytes a pixel.
        transform: of the crops.
        device: on which they are made.

    Raises:
        ConfigError: if the device's free memory does not hold the images.
        DataError: if an image cannot be read.
    """

    def __init__(self, images: WholeImages, transform: TrainTransform, device: torch.device) -> None:
        areas = [height * width for height, width in images.sizes()]
        total = sum(areas)
        require_room(4 * total, num_images=len(images), device=device)
        self.transform = transform
        self.device = device
        self.pixels = torch.empty((total, 3), dtype=torch.uint8, device=device)
        self.labels = torch.empty(total, dtype=torch.uint8, device=device)
        self.padding = torch.tensor(PAD_COLOR, dtype=torch.uint8, device=device)
        self.widths = torch.tensor([width for _, width in images.sizes()], device=device)
        self.starts = torch.tensor([0, *np.cumsum(areas[:-1]).tolist()], device=device)
        start = 0
        for index, reading in read_ahead(images.read, range(len(images))):
            image, mask = reading.result()
            end = start + areas[index]
            self.pixels[start:end] = image.permute(1, 2, 0).reshape(-1, 3).to(device)
            self.labels[start:end] = mask.reshape(-1).to(device)
            start = end

    @property
    def nbytes(self) -> int:
        """Memory that the images take."""
        return self.pixels.nbytes + self.labels.nbytes

    def __call__(self, drawn: Changes) -> Sample:
        """`image` uint8 [N, 3, h, w] with channels last, and `mask` uint8 [N, h, w].

        Args:
            drawn: batch of samples of `DrawnChanges`, in the memory of the processor.
        """
        here = {name: values.to(self.device, non_blocking=True) for name, values in drawn.items()}
        rows, columns = here["nearest_rows"], here["nearest_columns"]
        shown = (rows >= 0)[:, :, None] & (columns >= 0)[:, None]
        places = self._places(here["index"], rows.clamp(min=0), columns.clamp(min=0))
        mask = torch.where(shown, self.labels[places], IGNORE_INDEX)
        sizes = torch.stack([drawn["rows"], drawn["columns"]])
        image = self.pixels[places] if torch.equal(sizes[..., 1], sizes[..., 3]) else self._scaled(drawn, here)
        self._jitter(image, drawn)
        image = torch.where(shown[..., None], image, self.padding)
        flip = here["flip"][:, None, None]
        mask = torch.where(flip, mask.flip(2), mask)
        return {"image": torch.where(flip[..., None], image.flip(2), image).permute(0, 3, 1, 2), "mask": mask}

    def _places(self, index: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Where the pixels in these rows [N, H] and columns [N, W] of images [N] lie, int64 [N, H, W]."""
        first = self.starts[index, None] + rows * self.widths[index, None]
        return first[:, :, None] + columns[:, None]

    def _scaled(self, drawn: Changes, here: Changes) -> Tensor:
        """Scaled parts of the images at their places in the crops, uint8 [N, h, w, 3]; anything in the padding."""
        cut = self._places(here["index"], *(_taken(drawn[axis], here[axis]) for axis in ("rows", "columns")))
        pixels = self.pixels[cut]
        # torch scales along rows first, and rounds to whole values in between.
        for axis, dim, size in (("columns", 2, self.transform.crop_size[1]), ("rows", 1, self.transform.crop_size[0])):
            pixels = _resample(pixels, dim, here[axis], size=size, taps=_num_taps(drawn[axis]))
        return pixels

    def _jitter(self, image: Tensor, drawn: Changes) -> None:
        """Change the colours of each of the images [N, h, w, 3], where it is not padding."""
        strength = self.transform.augmentation
        if not (strength.brightness or strength.contrast or strength.saturation or strength.hue):
            return
        places = zip(drawn["rows"].tolist(), drawn["columns"].tolist(), drawn["jitter"].tolist(), strict=True)
        for pixels, ((_, _, top, height), (_, _, left, width), draws) in zip(image, places, strict=True):
            part = pixels[top : top + height, left : left + width]
            part.copy_(self.transform.jitter(part.permute(2, 0, 1), draws).permute(1, 2, 0))


def require_room(needed: int, *, num_images: int, device: torch.device) -> None:
    """Check that a GPU has `needed` bytes left.

    Raises:
        ConfigError: if it has not.
    """
    if device.type != "cuda":
        return
    free, _ = torch.cuda.mem_get_info(device)
    if needed > free:
        raise ConfigError(
            f"data.on_device (=true) needs {needed / 1e6:.0f} MB on {device} for {num_images} images, and "
            f"{free / 1e6:.0f} MB are free; use data.on_device=false"
        )


def _taken(drawn: Tensor, here: Tensor) -> Tensor:
    """Numbers of the pixels that are taken along an axis, the last repeated up to the longest, int64 [N, longest]."""
    steps = torch.arange(int(drawn[:, 1].max()), device=here.device)
    return here[:, :1] + torch.minimum(steps, here[:, 1:2] - 1)


def _num_taps(drawn: Tensor) -> int:
    """How many pixels of the images one of the crops is made of along an axis, at most."""
    return 2 * math.ceil(max(1.0, float((drawn[:, 1] / drawn[:, 3]).max()))) + 1


def _resample(pixels: Tensor, dim: int, axis: Tensor, *, size: int, taps: int) -> Tensor:
    """Antialiased bilinear resampling of uint8 [N, ..., 3] along `dim` to `size`, as torch's kernel for processors."""
    first, weights, bits = _taps(axis, size=size, taps=taps)
    shape: Sequence[int] = [-1, *(size if other == dim else 1 for other in range(1, 4))]
    expanded = [len(pixels), *(size if other == dim else pixels.shape[other] for other in range(1, 4))]
    bits = bits.view(-1, 1, 1, 1)
    total = (1 << (bits - 1)).expand(expanded).contiguous()
    for tap in range(taps):
        place = torch.minimum(first + tap, axis[:, 1:2] - 1).view(shape).expand(expanded)
        total += pixels.gather(dim, place) * weights[..., tap].view(shape)
    return (total >> bits).clamp_(0, 255).to(torch.uint8)


def _taps(axis: Tensor, *, size: int, taps: int) -> tuple[Tensor, Tensor, Tensor]:
    """First pixel of each of `size`, int64 [N, size]; weights, int32 [N, size, taps]; their binary places, int32 [N].

    A triangle over the pixels around the centre, which is as wide as a pixel of the result if that is the wider one.
    """
    taken, offset, length = axis[:, 1:].double().unbind(1)
    scale = (taken / length)[:, None]
    place = torch.arange(size, device=axis.device) - offset[:, None]
    centre = scale * (place.clamp(min=0).minimum(length[:, None] - 1) + 0.5)
    reach = scale.clamp(min=1)
    first = (centre - reach + 0.5).long().clamp(min=0)
    end = torch.minimum((centre + reach + 0.5).long(), axis[:, 1:2])
    numbers = first[..., None] + torch.arange(taps, device=axis.device)
    weights = (1 - ((numbers - centre[..., None] + 0.5) * (1 / reach)[..., None]).abs()).clamp(min=0)
    weights = torch.where(numbers < end[..., None], weights, 0)
    # Added up one by one, as `sum` may not, so that not even the rounding differs.
    weights = weights / functools.reduce(torch.add, weights.unbind(2))[..., None]
    # As many binary places as keep the largest weight within 16 bits with the sign, at most 22.
    enlarged = weights.amax(dim=(1, 2))[:, None] * (1 << torch.arange(1, 23, device=axis.device))
    bits = ((enlarged + 0.5).floor() < 2**15).sum(dim=1)
    return first, (weights * (1 << bits)[:, None, None] + 0.5).int(), bits.int()

"""Training crops made on the GPU, one batch at a time, from images stored in its memory (`data.on_device`).

The CPU only draws the random parameters, from the same numbers as `TrainTransform`. Scaling repeats the integer
arithmetic of torch's uint8 kernel for CPUs with AVX2, so that the pixels are identical. Exceptions: crops one pixel
wide may differ by one level, and colour jitter, blur and rotation by rounding, because a GPU adds floating-point
numbers in another order.
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
    """Random parameters that `crops` draws for a key (epoch, index), to be applied by `DeviceCrops`.

    A sample has `index`, `flip`, `jitter` [8]; `rows` and `columns` [4]: start and length in the image, start and
    length in the crop; `nearest_rows` [h] and `nearest_columns` [w]: for every pixel of the crop the nearest pixel of
    the image, or -1 for padding.
    """

    def __init__(self, crops: Crops) -> None:
        self.crops = crops
        self.sizes = crops.images.sizes()

    def __len__(self) -> int:
        return len(self.crops)

    def __getitem__(self, key: Key) -> Changes:
        transform = self.crops.transform
        change = transform.draw(self.sizes[key[1]], self.crops.rng(key), lambda: self.crops.images.read(key[1])[1])
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
    """Computes the samples of `Crops` from the parameters of `DrawnChanges`.

    Args:
        images: images that are copied to the device, 4 bytes per pixel.
        transform: transform of the crops.
        device: device on which crops are made.

    Raises:
        ConfigError: if the images do not fit into the device's free memory.
        DataError: if an image cannot be read.
    """

    def __init__(self, images: WholeImages, transform: TrainTransform, device: torch.device) -> None:
        areas = [height * width for height, width in images.sizes()]
        total = sum(areas)
        require_memory(4 * total, num_images=len(images), device=device)
        self.transform = transform
        self.device = device
        self.pixels = torch.empty((total, 3), dtype=torch.uint8, device=device)
        self.labels = torch.empty(total, dtype=torch.uint8, device=device)
        self.padding = torch.tensor(PAD_COLOR, dtype=torch.uint8, device=device)
        self.widths = torch.tensor([width for _, width in images.sizes()], device=device)
        self.starts = torch.tensor([0, *np.cumsum(areas[:-1]).tolist()], device=device)
        start = 0
        with read_ahead(images.read, range(len(images))) as readings:
            for index, reading in readings:
                image, mask = reading.result()
                end = start + areas[index]
                self.pixels[start:end] = image.permute(1, 2, 0).reshape(-1, 3).to(device)
                self.labels[start:end] = mask.reshape(-1).to(device)
                start = end

    @property
    def nbytes(self) -> int:
        """Memory of the images, bytes."""
        return self.pixels.nbytes + self.labels.nbytes

    def __call__(self, drawn: Changes) -> Sample:
        """Return `image`, uint8 [N, 3, h, w] with channels last, and `mask`, uint8 [N, h, w].

        Args:
            drawn: batch of samples of `DrawnChanges`, in CPU memory.
        """
        here = {name: values.to(self.device, non_blocking=True) for name, values in drawn.items()}
        rows, columns = here["nearest_rows"], here["nearest_columns"]
        visible = (rows >= 0)[:, :, None] & (columns >= 0)[:, None]
        places = self._places(here["index"], rows.clamp(min=0), columns.clamp(min=0))
        mask = torch.where(visible, self.labels[places], IGNORE_INDEX)
        sizes = torch.stack([drawn["rows"], drawn["columns"]])
        image = self.pixels[places] if torch.equal(sizes[..., 1], sizes[..., 3]) else self._scaled(drawn, here)
        self._jitter(image, drawn)
        image = torch.where(visible[..., None], image, self.padding)
        flip = here["flip"][:, None, None]
        mask = torch.where(flip, mask.flip(2), mask)
        return self._rotated(torch.where(flip[..., None], image.flip(2), image).permute(0, 3, 1, 2), mask, drawn)

    def _places(self, index: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Return the positions in memory of rows [N, H] and columns [N, W] of images [N], int64 [N, H, W]."""
        first = self.starts[index, None] + rows * self.widths[index, None]
        return first[:, :, None] + columns[:, None]

    def _scaled(self, drawn: Changes, here: Changes) -> Tensor:
        """Return the scaled images at their places in the crops, uint8 [N, h, w, 3]; padding is undefined."""
        cut = self._places(here["index"], *(_taken(drawn[axis], here[axis]) for axis in ("rows", "columns")))
        pixels = self.pixels[cut]
        # torch scales along rows first, and rounds to integers in between.
        for axis, dim, size in (("columns", 2, self.transform.crop_size[1]), ("rows", 1, self.transform.crop_size[0])):
            pixels = _resample(pixels, dim, here[axis], size=size, taps=_num_taps(drawn[axis]))
        return pixels

    def _jitter(self, image: Tensor, drawn: Changes) -> None:
        """Apply colour jitter to the images [N, h, w, 3], in place, outside of the padding."""
        strength = self.transform.augmentation
        changes = (strength.brightness, strength.contrast, strength.saturation, strength.hue, strength.grayscale)
        if not any((*changes, strength.blur)):
            return
        places = zip(drawn["rows"].tolist(), drawn["columns"].tolist(), drawn["jitter"].tolist(), strict=True)
        for pixels, ((_, _, top, height), (_, _, left, width), draws) in zip(image, places, strict=True):
            part = pixels[top : top + height, left : left + width]
            part.copy_(self.transform.jitter(part.permute(2, 0, 1), draws).permute(1, 2, 0))

    def _rotated(self, image: Tensor, mask: Tensor, drawn: Changes) -> Sample:
        if not self.transform.augmentation.rotation:
            return {"image": image, "mask": mask}
        crops = zip(image, mask, drawn["jitter"].tolist(), strict=True)
        images, masks = zip(*(self.transform.rotate(*crop) for crop in crops), strict=True)
        pixels = torch.stack([each.permute(1, 2, 0) for each in images])
        return {"image": pixels.permute(0, 3, 1, 2), "mask": torch.stack(masks)}


def require_memory(needed: int, *, num_images: int, device: torch.device) -> None:
    """Check that a GPU has `needed` bytes of free memory.

    Raises:
        ConfigError: if it does not.
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
    """Return the indices of the source pixels along an axis, the last repeated as padding, int64 [N, longest]."""
    steps = torch.arange(int(drawn[:, 1].max()), device=here.device)
    return here[:, :1] + torch.minimum(steps, here[:, 1:2] - 1)


def _num_taps(drawn: Tensor) -> int:
    """Return the maximal number of source pixels of a target pixel along an axis."""
    return 2 * math.ceil(max(1.0, float((drawn[:, 1] / drawn[:, 3]).max()))) + 1


def _resample(pixels: Tensor, dim: int, axis: Tensor, *, size: int, taps: int) -> Tensor:
    """Resample uint8 [N, ..., 3] along `dim` to `size`: antialiased bilinear, in the integers of torch's CPU kernel."""
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
    """Return the taps of `size` target pixels as fixed-point numbers.

    The weights form a triangle around the centre, as wide as the larger of a source and a target pixel.

    Returns:
        First source pixel, int64 [N, size]; weights, int32 [N, size, taps]; their binary places, int32 [N].
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
    # Added in sequence, which `sum` does not guarantee, so that rounding is identical.
    weights = weights / functools.reduce(torch.add, weights.unbind(2))[..., None]
    # The largest number of binary places for which the largest weight fits into a signed 16-bit integer, at most 22.
    enlarged = weights.amax(dim=(1, 2))[:, None] * (1 << torch.arange(1, 23, device=axis.device))
    bits = ((enlarged + 0.5).floor() < 2**15).sum(dim=1)
    return first, (weights * (1 << bits)[:, None, None] + 0.5).int(), bits.int()

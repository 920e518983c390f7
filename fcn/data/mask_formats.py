"""Reading of masks: palette images, grey images, and images whose colours stand for classes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fcn.config import IGNORE_INDEX
from fcn.config.choices import MaskFormat
from fcn.data.image_decoding import decode
from fcn.data.split_lists import AUG_MASKS
from fcn.errors import DataError

Color = tuple[int, int, int]
Values = NDArray[np.integer[Any]]

GREY_MODES = ("1", "L", "LA", "I", "RGB", "RGBA")
"""Modes of Pillow whose pixels are grey values, or colours that may be equal in all channels."""


@dataclass(frozen=True)
class MaskReader:
    """Reads the classes of a mask file.

    Attributes:
        num_classes: number of classes.
        mask_format: palette: the palette index of a pixel is its class; index: its grey value; rgb: its colour.
        label_map: pairs of a value in the files and the class, or 255, that it stands for; other values are kept,
            unless another value stands for their class and it is not the background.
        colors: RGB colours of the classes in their order, under the format rgb; further colours stand for void.
    """

    num_classes: int
    mask_format: MaskFormat = MaskFormat.palette
    label_map: tuple[tuple[int, int], ...] = ()
    colors: tuple[Color, ...] = ()

    @property
    def identity(self) -> str:
        """Text that differs between readers that may read a file differently; empty for masks like VOC's."""
        if self == MaskReader(self.num_classes):
            return ""
        return f"{self.mask_format} {self.label_map} {self.colors}"

    def read(self, path: Path) -> Tensor:
        """Return the classes of a mask file, uint8 [H, W]: 0 to num_classes - 1, and 255 for void.

        Raises:
            DataError: if the file cannot be decoded, has another format, or contains another value.
        """
        return self.classes(decode(path), path)

    def classes(self, image: Image.Image, path: Path) -> Tensor:
        """Return the classes of a decoded mask, as `read`; the path is for messages."""
        if self.mask_format is MaskFormat.rgb:
            return torch.from_numpy(self._classes_of_colors(image, path))
        grey = self.mask_format is MaskFormat.index
        values = _grey_values(image, path) if grey else _palette_indices(image, path)
        return torch.from_numpy(self._classes_of_values(values, path))

    def _classes_of_values(self, values: Values, path: Path) -> NDArray[np.uint8]:
        mapped = values.astype(np.int64) if self.label_map else values
        for value, label in self.label_map:
            mapped[values == value] = label
        self._require_unambiguous(values, path)
        is_invalid = (mapped >= self.num_classes) & (mapped != IGNORE_INDEX)
        if mapped.dtype.kind == "i":
            is_invalid |= mapped < 0
        if is_invalid.any():
            invalid = ", ".join(map(str, np.unique(values[is_invalid])[:5]))
            problem = f"{path} (values {invalid}) must contain only 0 to {self.num_classes - 1} and {IGNORE_INDEX}"
            raise DataError(problem, "list every class in data.classes, set data.label_map, or restore the mask")
        return mapped.astype(np.uint8, copy=False)

    def _require_unambiguous(self, values: Values, path: Path) -> None:
        """Refuse a value that is kept although another value stands for its class, which would mix two classes."""
        # Background and void are what other values are merged with on purpose.
        kept = {label for _, label in self.label_map} - {value for value, _ in self.label_map} - {0, IGNORE_INDEX}
        for label in sorted(kept):
            if (values == label).any():
                entries = ", ".join(f"{value}: {target}" for value, target in self.label_map)
                others = ", ".join(str(value) for value, target in self.label_map if target == label)
                raise DataError(
                    f"{path} (value {label}) must contain only values that data.label_map maps, because it maps "
                    f"{others} to the class {label} too",
                    f"map {label} as well: to ignore, to the class it stands for, or to {label}, which merges them: "
                    f"'data.label_map={{{label}: ignore, {entries}}}'",
                )

    def _classes_of_colors(self, image: Image.Image, path: Path) -> NDArray[np.uint8]:
        codes = _color_codes(np.asarray(image.convert("RGBA" if image.mode == "P" else "RGB"))[..., :3])
        known = _color_codes(np.array(self.colors))
        order = np.argsort(known)
        place = np.searchsorted(known, codes, sorter=order).clip(max=len(known) - 1)
        index = order[place]
        is_invalid = known[index] != codes
        if is_invalid.any():
            first = np.unique(codes[is_invalid])[:3]
            invalid = ", ".join(f"[{code >> 16},{code >> 8 & 255},{code & 255}]" for code in first.tolist())
            problem = f"{path} (colours {invalid}) must contain only the colours of data.colors"
            raise DataError(problem, "add them after those of the classes if they are void, or restore the mask")
        return np.where(index < self.num_classes, index, IGNORE_INDEX).astype(np.uint8)


def _palette_indices(image: Image.Image, path: Path) -> Values:
    # SegmentationClassAug is usually distributed as grey PNGs, whose grey value is the index. Anywhere else a grey
    # mask may be the result of a conversion, whose values are unrelated to classes.
    allowed = ("P", "L") if path.parent.name == AUG_MASKS else ("P",)
    if image.mode not in allowed:
        problem = f"{path} (mode {image.mode}) must be a palette PNG (mode P), whose index is the class"
        is_colored = image.mode.startswith("RGB")
        other = "rgb and data.colors if colours" if is_colored else "index if grey values"
        raise DataError(problem, f"use data.mask_format={other} are classes, or restore the original file")
    indices: Values = np.array(image)
    return indices


def _grey_values(image: Image.Image, path: Path) -> Values:
    """Return the grey values of an image; an image of 1 bit has the values 0 and 1, an alpha channel is dropped."""
    if image.mode not in GREY_MODES and not image.mode.startswith("I;16"):
        remedy = "use data.mask_format=palette" if image.mode in ("P", "PA") else "save it with grey integer pixels"
        raise DataError(f"{path} (mode {image.mode}) must be a grey image, whose value is the class", remedy)
    pixels: Values = np.array(image)
    if pixels.dtype == bool:
        return pixels.astype(np.uint8)
    if pixels.ndim == 2:
        return pixels
    color = pixels[..., : 1 if image.mode == "LA" else 3]
    if (color != color[..., :1]).any():
        problem = f"{path} (mode {image.mode}) must be a grey image, whose value is the class, but has colours"
        raise DataError(problem, "use data.mask_format=rgb and data.colors")
    return color[..., 0]


def _color_codes(colors: NDArray[np.uint8] | Values) -> Values:
    """Return one number for each RGB colour [..., 3]."""
    red, green, blue = np.moveaxis(colors.astype(np.int64), -1, 0)
    codes: Values = red << 16 | green << 8 | blue
    return codes

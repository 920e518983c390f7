"""Keys of the augmentation of training images, `data.augmentation`."""

from __future__ import annotations

from dataclasses import dataclass

from fcn.config.components import setting


@dataclass(kw_only=True, slots=True)
class AugmentationConfig:
    """Random augmentation of a training image. The defaults only crop at random, as d2l does."""

    scale: list[float] = setting(
        [1.0, 1.0], "minimum and maximum of the random scale, relative to the native size", low=0.1, high=10
    )
    short_side: int | None = setting(
        None, "pixels of the shorter side of an image at scale 1, in place of the native size; null: native size", low=1
    )
    flip: float = setting(0.0, "probability of a horizontal flip", low=0, high=1)
    brightness: float = setting(0.0, "strength b: the brightness factor is drawn from [1 - b, 1 + b]", low=0, high=1)
    contrast: float = setting(0.0, "strength c: the contrast factor is drawn from [1 - c, 1 + c]", low=0, high=1)
    saturation: float = setting(0.0, "strength s: the saturation factor is drawn from [1 - s, 1 + s]", low=0, high=1)
    hue: float = setting(0.0, "strength h: the shift is drawn from [-h, h]; 1 is the full hue circle", low=0, high=0.5)
    grayscale: float = setting(0.0, "probability that the colours are removed", low=0, high=1)
    blur: float = setting(
        0.0, "probability of a Gaussian blur, whose standard deviation is drawn from [0.1, 2] pixels", low=0, high=1
    )
    rotation: float = setting(
        0.0,
        "strength r: the crop is rotated by an angle from [-r, r] degrees; corners become void",
        low=0,
        high=180,
    )

"""The VOC colour map, and masks as palette images."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def color_map() -> NDArray[np.uint8]:
    """Return the VOC colours of all mask values, RGB, uint8 [256, 3]; row 255 (void) is cream.

    The bits of the index, lowest first, go in turn to red, green and blue, from the highest bit of the colour
    down (VOCcolormap.m of the VOC2012 development kit).
    """
    index = np.arange(256)
    colors = np.zeros((256, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            colors[:, channel] |= ((index >> (3 * bit + channel) & 1) << (7 - bit)).astype(np.uint8)
    return colors


def palette_image(mask: NDArray[np.uint8]) -> Image.Image:
    """Return a mask [H, W] as a palette image like VOC's: the index of a pixel is its class, the colours are VOC's."""
    image = Image.fromarray(mask)
    image.putpalette(color_map().tobytes())  # changes the mode from L to P; the values become indices
    return image

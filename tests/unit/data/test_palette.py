"""Colours of VOC's palette."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fcn.data.palette import color_map
from fcn.data.split_lists import read_split

SAMPLE = Path(__file__).resolve().parents[3] / ".." / "shared" / "voc-sample"
needs_sample = pytest.mark.skipif(not SAMPLE.is_dir(), reason="no genuine VOC sample next to the checkout")


def test_color_map_is_that_of_the_devkit() -> None:
    known = {
        0: (0, 0, 0),
        1: (128, 0, 0),
        2: (0, 128, 0),
        3: (128, 128, 0),
        4: (0, 0, 128),
        8: (64, 0, 0),
        15: (192, 128, 128),
        16: (0, 64, 0),
        20: (0, 64, 128),
        255: (224, 224, 192),
    }
    colors = color_map()
    assert colors.shape == (256, 3)
    assert colors.dtype == np.uint8
    assert {index: tuple(colors[index].tolist()) for index in known} == known
    assert len(np.unique(colors, axis=0)) == 256


@pytest.mark.realdata
@needs_sample
def test_color_map_is_the_palette_of_genuine_masks() -> None:
    path = read_split(SAMPLE, "val")[0].mask
    palette = Image.open(path).getpalette()
    assert palette is not None
    np.testing.assert_array_equal(np.reshape(palette, (-1, 3)), color_map()[: len(palette) // 3])

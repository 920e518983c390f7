"""Writing of PNG files; tests of `replacing` are in tests/unit/runs."""

import numpy as np
import pytest
from PIL import Image

from fcn.visualization.png_files import save_png
from tests.pictures import KNOWN_COLORS, MAGENTA, stripes
from tests.voc_tree import palette_mask


def test_save_png_creates_the_folder_and_keeps_every_pixel(tmp_path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (7, 9, 3), np.uint8))
    path = tmp_path / "samples" / "epoch.png"
    save_png(image, path)
    with Image.open(path) as saved:
        assert saved.format == "PNG"
        assert saved.tobytes() == image.tobytes()
    assert list(path.parent.iterdir()) == [path]


def test_save_png_keeps_the_indices_of_a_palette_mask(tmp_path):
    save_png(palette_mask(stripes(4, 6, 0, 15, 255)), tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as saved:
        np.testing.assert_array_equal(np.asarray(saved), stripes(4, 6, 0, 15, 255))
        np.testing.assert_array_equal(np.asarray(saved.convert("RGB"))[0, 2], KNOWN_COLORS[15])


def test_failed_save_keeps_the_old_file(tmp_path):
    path = tmp_path / "epoch.png"
    save_png(Image.new("RGB", (2, 2), MAGENTA), path)
    before = path.read_bytes()
    with pytest.raises(OSError, match="cannot write mode F as PNG"):
        save_png(Image.new("F", (2, 2)), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]

"""Decoding of image files, and errors for invalid files."""

import io
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fcn.data.image_decoding import image_size, read_image
from fcn.data.mask_formats import MaskReader
from fcn.errors import DataError

# No deadline: the cores are shared, and the first call of a codec is slow.
examples = settings(deadline=None, max_examples=50)


def save_image(path: Path, pixels: np.ndarray, mode: str) -> Path:
    Image.fromarray(pixels).convert(mode).save(path)
    return path


def test_image_is_rgb_as_stored(tmp_path: Path) -> None:
    pixels = np.arange(2 * 5 * 3, dtype=np.uint8).reshape(2, 5, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # viewers rotate the image by 90 degrees
    Image.fromarray(pixels).save(tmp_path / "x.png", exif=exif)
    image = read_image(tmp_path / "x.png")
    assert image.dtype == torch.uint8
    assert image.permute(1, 2, 0).is_contiguous()
    np.testing.assert_array_equal(image.numpy(), pixels.transpose(2, 0, 1))
    (tmp_path / "x.png").write_bytes((tmp_path / "x.png").read_bytes()[:-20])
    assert image_size(tmp_path / "x.png") == (2, 5)  # reads only the header


def test_large_image_is_read_without_a_warning(tmp_path: Path) -> None:
    # In a new process, because pytest resets the filters of warnings.
    Image.new("1", (9500, 9500)).save(tmp_path / "x.png")
    program = "import sys; from pathlib import Path; from fcn.data.image_decoding import image_size; "
    done = subprocess.run(
        [sys.executable, "-c", f"{program} print(image_size(Path(sys.argv[1])))", str(tmp_path / "x.png")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("(9500, 9500)\n", "")


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA", "CMYK"])
def test_images_of_all_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    suffix = "jpg" if mode == "CMYK" else "png"
    image = read_image(save_image(tmp_path / f"x.{suffix}", np.full((2, 3, 3), 255, np.uint8), mode))
    assert image.tolist() == [[[255] * 3] * 2] * 3


def test_transparent_palette_is_read_without_a_warning(tmp_path: Path) -> None:
    image = Image.new("P", (1, 1), 1)
    image.putpalette([0, 0, 0, 9, 8, 7])
    image.save(tmp_path / "x.png", transparency=b"\xff\x80")
    assert read_image(tmp_path / "x.png").flatten().tolist() == [9, 8, 7]


def test_16_bit_images_are_scaled(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 255, 256, 32768, 65535]], np.uint16)).save(tmp_path / "x.png")
    assert read_image(tmp_path / "x.png")[0].tolist() == [[0, 0, 1, 128, 255]]


@examples
@given(data=st.binary(max_size=40), kept=st.floats(0.0, 0.9), suffix=st.sampled_from(["jpg", "png"]))
def test_damaged_file_is_an_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, kept: float, suffix: str
) -> None:
    path = tmp_path_factory.getbasetemp() / f"broken.{suffix}"
    buffer = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(noise).save(buffer, {"jpg": "JPEG", "png": "PNG"}[suffix])
    whole = buffer.getvalue()
    for content in (data, whole[: int(kept * len(whole))]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=rf"broken\.{suffix} must be a readable image: .*; restore it"):
            read_image(path)


@pytest.mark.parametrize("read", [read_image, MaskReader(21).read, image_size])
def test_missing_file_is_an_error(tmp_path: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(DataError, match=r"x\.png must be a readable image: .*No such file"):
        read(tmp_path / "x.png")

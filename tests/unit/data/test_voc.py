"""Reading of VOC trees: images, masks, and errors for invalid files."""

import functools
import io
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from fcn.data import voc
from fcn.data.palette import color_map
from fcn.data.split_lists import read_split
from fcn.errors import DataError
from tests.voc_tree import make_voc_tree, palette_mask

SAMPLE = Path(__file__).resolve().parents[3] / ".." / "shared" / "voc-sample"
# No deadline: the cores are shared, and the first call of a codec is slow.
examples = settings(deadline=None, max_examples=50)
needs_sample = pytest.mark.skipif(not SAMPLE.is_dir(), reason="no genuine VOC sample next to the checkout")


def save_mask(path: Path, indices: np.ndarray, palette: bytes | None = None, **options: int) -> Path:
    palette_mask(indices, palette).save(path, **options)
    return path


def save_image(path: Path, pixels: np.ndarray, mode: str) -> Path:
    Image.fromarray(pixels).convert(mode).save(path)
    return path


# Colours


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


# Images


def test_image_is_rgb_as_stored(tmp_path: Path) -> None:
    pixels = np.arange(2 * 5 * 3, dtype=np.uint8).reshape(2, 5, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # viewers rotate the image by 90 degrees
    Image.fromarray(pixels).save(tmp_path / "x.png", exif=exif)
    image = voc.read_image(tmp_path / "x.png")
    assert image.dtype == torch.uint8
    assert image.permute(1, 2, 0).is_contiguous()
    np.testing.assert_array_equal(image.numpy(), pixels.transpose(2, 0, 1))
    (tmp_path / "x.png").write_bytes((tmp_path / "x.png").read_bytes()[:-20])
    assert voc.image_size(tmp_path / "x.png") == (2, 5)  # reads only the header


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA", "CMYK"])
def test_images_of_all_modes_become_rgb(tmp_path: Path, mode: str) -> None:
    suffix = "jpg" if mode == "CMYK" else "png"
    image = voc.read_image(save_image(tmp_path / f"x.{suffix}", np.full((2, 3, 3), 255, np.uint8), mode))
    assert image.tolist() == [[[255] * 3] * 2] * 3


def test_transparent_palette_is_read_without_a_warning(tmp_path: Path) -> None:
    image = Image.new("P", (1, 1), 1)
    image.putpalette([0, 0, 0, 9, 8, 7])
    image.save(tmp_path / "x.png", transparency=b"\xff\x80")
    assert voc.read_image(tmp_path / "x.png").flatten().tolist() == [9, 8, 7]


def test_16_bit_images_are_scaled(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 255, 256, 32768, 65535]], np.uint16)).save(tmp_path / "x.png")
    assert voc.read_image(tmp_path / "x.png")[0].tolist() == [[0, 0, 1, 128, 255]]


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
            voc.read_image(path)


@pytest.mark.parametrize("read", [voc.read_image, functools.partial(voc.read_mask, num_classes=21), voc.image_size])
def test_missing_file_is_an_error(tmp_path: Path, read: Callable[[Path], object]) -> None:
    with pytest.raises(DataError, match=r"x\.png must be a readable image: .*No such file"):
        read(tmp_path / "x.png")


# Masks


@examples
@given(
    indices=hnp.arrays(
        np.uint8,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=8),
        elements=st.sampled_from([*range(21), 255]),
    ),
    palette=st.binary(min_size=768, max_size=768),
)
def test_mask_is_read_as_palette_indices(
    tmp_path_factory: pytest.TempPathFactory, indices: np.ndarray, palette: bytes
) -> None:
    path = save_mask(tmp_path_factory.getbasetemp() / "indices.png", indices, palette)
    mask = voc.read_mask(path, 21)
    assert mask.dtype == torch.uint8
    np.testing.assert_array_equal(mask.numpy(), indices)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_mask_with_fewer_bits_is_read_as_palette_indices(tmp_path: Path, bits: int) -> None:
    indices = np.array([[0, 1, 1], [1, 0, 0]], np.uint8)
    path = save_mask(tmp_path / "x.png", indices, color_map()[: 2**bits].tobytes(), bits=bits)
    np.testing.assert_array_equal(voc.read_mask(path, 21).numpy(), indices)


@pytest.mark.parametrize(
    ("folder", "modes"), [("SegmentationClass", ["L", "RGB", "RGBA"]), ("SegmentationClassAug", ["RGB"])]
)
def test_only_augmented_masks_may_be_grey(tmp_path: Path, folder: str, modes: list[str]) -> None:
    (tmp_path / folder).mkdir()
    indices = np.array([[0, 7, 255]], np.uint8)
    for mode in modes:
        with pytest.raises(DataError, match=rf"\(mode {mode}\) must be a palette PNG"):
            voc.read_mask(save_image(tmp_path / folder / "x.png", indices, mode), 21)
    if "L" not in modes:
        assert voc.read_mask(save_image(tmp_path / folder / "x.png", indices, "L"), 21).tolist() == indices.tolist()


def test_mask_value_that_is_not_a_class_is_an_error(tmp_path: Path) -> None:
    path = save_mask(tmp_path / "x.png", np.array([[0, 20, 21, 254, 255]], np.uint8))
    with pytest.raises(DataError, match=r"x\.png \(values 21, 254\) must contain only 0 to 20 and 255; list every"):
        voc.read_mask(path, 21)
    assert voc.read_mask(path, 255).tolist() == [[0, 20, 21, 254, 255]]


# Pairs and the error itself


def test_image_and_mask_must_have_one_size(tmp_path: Path) -> None:
    tree = make_voc_tree(tmp_path, {"b": np.ones((4, 6))}, {"val": "b"})
    (pair,) = read_split(tmp_path, "val")
    image, mask = voc.read_pair(pair, 21)
    assert image.shape == (3, 4, 6)
    assert mask.tolist() == [[1] * 6] * 4
    save_mask(tree / "SegmentationClass" / "b.png", np.zeros((6, 4), np.uint8))
    with pytest.raises(DataError, match=r"b\.jpg \(4, 6\) must have the size of .*b\.png \(6, 4\)"):
        voc.read_pair(pair, 21)


def test_data_error_can_be_pickled_and_rebuilt() -> None:
    error = DataError("x must be y", "do z")
    assert isinstance(error, ValueError)
    assert str(error) == str(pickle.loads(pickle.dumps(error))) == "x must be y; do z"
    # torch's loader rebuilds it from its message.
    assert str(DataError(str(error))) == "x must be y; do z"


@pytest.mark.realdata
@needs_sample
def test_genuine_pairs_equal_torchvisions() -> None:
    from torchvision.datasets import VOCSegmentation

    reference = VOCSegmentation(str(SAMPLE), year="2012", image_set="val")
    pairs = read_split(SAMPLE, "val")
    assert len(pairs) == len(reference) == 60
    for index in range(0, 60, 10):
        image, mask = voc.read_pair(pairs[index], 21)
        expected_image, expected_mask = reference[index]
        np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), np.asarray(expected_image))
        np.testing.assert_array_equal(mask.numpy(), np.asarray(expected_mask))
        assert voc.image_size(pairs[index].image) == mask.shape

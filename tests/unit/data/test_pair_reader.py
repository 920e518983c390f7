"""Reading of pairs, and the error for invalid files of a dataset."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from fcn.data.image_decoding import image_size
from fcn.data.mask_formats import MaskReader
from fcn.data.pair_reader import PairReader
from fcn.data.split_lists import Pair, read_split
from fcn.errors import DataError
from tests.voc_tree import make_listed_tree, noise, pair_reader, palette_mask

SAMPLE = Path(__file__).resolve().parents[3] / ".." / "shared" / "voc-sample"
needs_sample = pytest.mark.skipif(not SAMPLE.is_dir(), reason="no genuine VOC sample next to the checkout")


def save_mask(path: Path, indices: np.ndarray, palette: bytes | None = None, **options: int) -> Path:
    palette_mask(indices, palette).save(path, **options)
    return path


def test_image_and_mask_must_have_one_size(tmp_path: Path) -> None:
    tree = make_listed_tree(tmp_path, {"val": "a\nb\n"})
    pair = read_split(tmp_path, "val")[1]
    image, mask = pair_reader(21).read(pair)
    assert image.shape == (3, 4, 6)
    assert mask.tolist() == [[1] * 6] * 4
    save_mask(tree / "SegmentationClass" / "b.png", np.zeros((6, 4), np.uint8))
    with pytest.raises(DataError, match=r"b\.jpg \(4, 6\) must have the size of .*b\.png \(6, 4\)"):
        pair_reader(21).read(pair)


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
        image, mask = pair_reader(21).read(pairs[index])
        expected_image, expected_mask = reference[index]
        np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), np.asarray(expected_image))
        np.testing.assert_array_equal(mask.numpy(), np.asarray(expected_mask))
        assert image_size(pairs[index].image) == mask.shape


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_upright_pixels_and_size_are_those_of_pillow(tmp_path: Path, turn: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(noise(3, 5)).save(path, exif=exif)
    with Image.open(path) as image:
        expected = np.array(ImageOps.exif_transpose(image))
    reader = PairReader(MaskReader(2), upright=True)
    save_mask(tmp_path / "m.png", np.zeros(expected.shape[:2], np.uint8))
    pixels, _ = reader.read(Pair("x", path, tmp_path / "m.png"))
    np.testing.assert_array_equal(pixels.permute(1, 2, 0).numpy(), expected)
    assert reader.size(path) == expected.shape[:2]


@pytest.mark.parametrize(("upright", "key"), [(False, "apply"), (True, "ignore")])
def test_size_that_an_orientation_explains_names_the_key(tmp_path: Path, upright: bool, key: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(noise(3, 5)).save(tmp_path / "x.jpg", exif=exif)
    save_mask(tmp_path / "x.png", np.zeros((3, 5) if upright else (5, 3), np.uint8))
    pair = Pair("x", tmp_path / "x.jpg", tmp_path / "x.png")
    with pytest.raises(DataError, match=rf"must have the size of .*; use data\.exif={key}, because .* orientation 6"):
        PairReader(MaskReader(2), upright=upright).read(pair)
    assert PairReader(MaskReader(2), upright=not upright).read(pair)[0].shape[1:] == ((3, 5) if upright else (5, 3))


def test_invalid_exif_data_are_ignored(tmp_path: Path) -> None:
    Image.fromarray(noise(3, 5)).save(tmp_path / "x.jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    save_mask(tmp_path / "x.png", np.zeros((3, 5), np.uint8))
    pair = Pair("x", tmp_path / "x.jpg", tmp_path / "x.png")
    assert PairReader(MaskReader(2), upright=True).read(pair)[0].shape == (3, 3, 5)

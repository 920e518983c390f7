"""Reading of masks of all formats, and errors for invalid masks."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from fcn.config.choices import MaskFormat
from fcn.data.mask_formats import MaskReader
from fcn.data.palette import color_map
from fcn.errors import DataError
from tests.voc_tree import palette_mask

# No deadline: the cores are shared, and the first call of a codec is slow.
examples = settings(deadline=None, max_examples=50)


def save_mask(path: Path, indices: np.ndarray, palette: bytes | None = None, **options: int) -> Path:
    palette_mask(indices, palette).save(path, **options)
    return path


def save_image(path: Path, pixels: np.ndarray, mode: str) -> Path:
    Image.fromarray(pixels).convert(mode).save(path)
    return path


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
    mask = MaskReader(21).read(path)
    assert mask.dtype == torch.uint8
    np.testing.assert_array_equal(mask.numpy(), indices)


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_mask_with_fewer_bits_is_read_as_palette_indices(tmp_path: Path, bits: int) -> None:
    indices = np.array([[0, 1, 1], [1, 0, 0]], np.uint8)
    path = save_mask(tmp_path / "x.png", indices, color_map()[: 2**bits].tobytes(), bits=bits)
    np.testing.assert_array_equal(MaskReader(21).read(path).numpy(), indices)


@pytest.mark.parametrize(
    ("folder", "modes"), [("SegmentationClass", ["L", "RGB", "RGBA"]), ("SegmentationClassAug", ["RGB"])]
)
def test_only_augmented_masks_may_be_grey(tmp_path: Path, folder: str, modes: list[str]) -> None:
    (tmp_path / folder).mkdir()
    indices = np.array([[0, 7, 255]], np.uint8)
    for mode in modes:
        with pytest.raises(DataError, match=rf"\(mode {mode}\) must be a palette PNG"):
            MaskReader(21).read(save_image(tmp_path / folder / "x.png", indices, mode))
    if "L" not in modes:
        assert MaskReader(21).read(save_image(tmp_path / folder / "x.png", indices, "L")).tolist() == indices.tolist()


def test_mask_value_that_is_not_a_class_is_an_error(tmp_path: Path) -> None:
    path = save_mask(tmp_path / "x.png", np.array([[0, 20, 21, 254, 255]], np.uint8))
    with pytest.raises(DataError, match=r"x\.png \(values 21, 254\) must contain only 0 to 20 and 255; list every"):
        MaskReader(21).read(path)
    assert MaskReader(255).read(path).tolist() == [[0, 20, 21, 254, 255]]


# Grey masks


INDICES = np.array([[0, 1, 2], [2, 255, 0]], np.uint8)
GREY = MaskReader(3, MaskFormat.index)


@pytest.mark.parametrize("suffix", ["png", "tif", "bmp", "webp"])
def test_grey_values_are_the_classes(tmp_path: Path, suffix: str) -> None:
    options = {"lossless": True} if suffix == "webp" else {}
    Image.fromarray(INDICES).save(tmp_path / f"x.{suffix}", **options)
    assert GREY.read(tmp_path / f"x.{suffix}").tolist() == INDICES.tolist()


@pytest.mark.parametrize("mode", ["LA", "RGB", "RGBA", "I", "I;16"])
def test_grey_masks_of_all_modes_have_the_same_classes(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(INDICES.astype(np.uint16)) if mode == "I;16" else Image.fromarray(INDICES).convert(mode)
    image.save(tmp_path / "x.tif")
    assert Image.open(tmp_path / "x.tif").mode == mode
    mask = GREY.read(tmp_path / "x.tif")
    assert mask.dtype == torch.uint8
    assert mask.tolist() == INDICES.tolist()


def test_mask_of_one_bit_has_the_classes_0_and_1(tmp_path: Path) -> None:
    Image.fromarray(INDICES > 0).save(tmp_path / "x.png")
    assert Image.open(tmp_path / "x.png").mode == "1"
    assert GREY.read(tmp_path / "x.png").tolist() == [[0, 1, 1], [1, 1, 0]]


def test_mask_of_another_format_is_refused_with_the_key(tmp_path: Path) -> None:
    path = save_mask(tmp_path / "x.png", INDICES)
    with pytest.raises(DataError, match=r"\(mode P\) must be a grey image.*; use data\.mask_format=palette"):
        GREY.read(path)
    save_image(path, np.array([[[0, 0, 1]]], np.uint8), "RGB")
    with pytest.raises(DataError, match=r"\(mode RGB\) must be a grey image.*colours; use data\.mask_format=rgb"):
        GREY.read(path)
    Image.fromarray(INDICES).save(path)
    with pytest.raises(DataError, match=r"\(mode L\) must be a palette PNG.*; use data\.mask_format=index if grey"):
        MaskReader(3).read(path)


# Label maps and colours


@examples
@given(
    values=hnp.arrays(np.uint16, (3, 4), elements=st.sampled_from([0, 1, 2, 7, 255, 256, 65535])),
    label_map=st.dictionaries(st.sampled_from([0, 1, 7, 255, 256, 65535]), st.sampled_from([0, 1, 2, 255])),
)
def test_label_map_replaces_every_value_once(
    tmp_path_factory: pytest.TempPathFactory, values: np.ndarray, label_map: dict[int, int]
) -> None:
    path = tmp_path_factory.getbasetemp() / "values.png"
    Image.fromarray(values).save(path)
    reader = MaskReader(3, MaskFormat.index, label_map=tuple(label_map.items()))
    expected = [[label_map.get(value, value) for value in row] for row in values.tolist()]
    mixed = set(label_map.values()) - set(label_map) - {0, 255}
    if mixed & set(values.ravel().tolist()):
        with pytest.raises(DataError, match=r"\(value [12]\) must contain only values that data\.label_map maps"):
            reader.read(path)
    elif invalid := sorted({v for v in values.ravel().tolist() if label_map.get(v, v) not in (0, 1, 2, 255)}):
        with pytest.raises(DataError, match=rf"\(values {', '.join(map(str, invalid))}\) must contain only 0 to 2"):
            reader.read(path)
    else:
        assert reader.read(path).tolist() == expected


def test_label_map_applies_to_palette_indices(tmp_path: Path) -> None:
    path = save_mask(tmp_path / "x.png", np.array([[0, 255, 1]], np.uint8))
    assert MaskReader(2, label_map=((0, 255), (1, 1), (255, 1))).read(path).tolist() == [[255, 1, 1]]


def test_value_that_would_be_mixed_with_another_class_must_be_mapped(tmp_path: Path) -> None:
    values = np.array([[0, 1, 8, 12, 9, 255]], np.uint8)
    path = save_mask(tmp_path / "x.png", values)
    label_map = ((8, 1), (9, 255), (12, 2))
    with pytest.raises(DataError, match=r"x\.png \(value 1\) .* maps 8 to the class 1 too; map 1 as well: ") as error:
        MaskReader(3, label_map=label_map).read(path)
    assert str(error.value).endswith(" 'data.label_map={1: ignore, 8: 1, 9: 255, 12: 2}'")
    assert MaskReader(3, label_map=((1, 0), *label_map)).read(path).tolist() == [[0, 0, 1, 2, 255, 255]]
    save_mask(path, np.where(values == 1, 0, values))
    assert MaskReader(3, label_map=label_map).read(path).tolist() == [[0, 0, 1, 2, 255, 255]]


COLORS = ((0, 0, 0), (250, 50, 83), (36, 179, 83), (224, 224, 192))


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colours_are_classes_and_further_ones_void(tmp_path: Path, mode: str) -> None:
    expected = np.array([[0, 1, 2, 255], [2, 2, 255, 0]], np.uint8)
    pixels = np.array(COLORS, np.uint8)[np.minimum(expected, 3)]
    image = Image.fromarray(pixels)
    (image.convert("P", palette=Image.Palette.ADAPTIVE) if mode == "P" else image.convert(mode)).save(
        tmp_path / "x.png"
    )
    reader = MaskReader(3, MaskFormat.rgb, colors=COLORS)
    assert Image.open(tmp_path / "x.png").mode == mode
    assert reader.read(tmp_path / "x.png").tolist() == expected.tolist()
    with pytest.raises(DataError, match=r"\(colours \[224,224,192\]\) must contain only the colours of data\.colors"):
        MaskReader(3, MaskFormat.rgb, colors=COLORS[:3]).read(tmp_path / "x.png")


def test_identity_differs_for_readers_that_read_differently() -> None:
    readers = [
        MaskReader(3),
        MaskReader(3, MaskFormat.index),
        MaskReader(3, label_map=((255, 1),)),
        MaskReader(3, label_map=((255, 2),)),
        MaskReader(3, MaskFormat.rgb, colors=COLORS[:3]),
        MaskReader(3, MaskFormat.rgb, colors=COLORS),
    ]
    assert len({reader.identity for reader in readers}) == len(readers)
    assert MaskReader(21).identity == MaskReader(3).identity == ""


@pytest.mark.parametrize("mode", ["CMYK", "F", "LAB"])
def test_modes_whose_channels_are_no_grey_values_are_refused(tmp_path: Path, mode: str) -> None:
    """The first three channels of a grey CMYK image are all 0."""
    image = Image.new(mode, (2, 1))
    image.save(tmp_path / "x.tif")
    with pytest.raises(DataError, match=rf"\(mode {mode}\) must be a grey image.*; save it with grey integer pixels"):
        GREY.read(tmp_path / "x.tif")

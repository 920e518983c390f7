from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fcn.config import VOC_CLASSES
from fcn.visualization import CELL_SIZE, ERROR_COLOR, caption, colorize, panels, save_png, side_by_side
from tests.pictures import MAGENTA, boxes, filled, stripes


@pytest.mark.parametrize(
    ("height", "width", "fitted"),
    [
        (100, 150, (300, 200)),
        (375, 500, (300, 225)),
        (500, 375, (180, 240)),
        (1, 500, (300, 1)),
        (1, 1, (240, 240)),
    ],
)
def test_a_row_shows_input_target_prediction_and_errors_in_cells_of_one_size(height, width, fitted):
    target, prediction = stripes(height, width, 1, 2), stripes(height, width, 2, 1)
    sheet = panels([(filled(height, width), target, prediction)], VOC_CLASSES)
    ((left, top, right, bottom),) = boxes(sheet, MAGENTA)
    assert (right - left, bottom - top) == fitted
    step = (sheet.width - 2 * 20 + 12) // 4  # margins of 20, gaps of 12
    for place, mask in ((1, target), (2, prediction)):
        cell = sheet.crop((left + place * step, top, right + place * step, bottom))
        expected = Image.fromarray(colorize(mask)).resize(fitted, Image.Resampling.NEAREST)
        np.testing.assert_array_equal(np.asarray(cell), np.asarray(expected))
    errors = np.asarray(sheet.crop((left + 3 * step, top, right + 3 * step, bottom)))
    np.testing.assert_array_equal(errors, filled(*errors.shape[:2], ERROR_COLOR))


def test_rows_of_different_shapes_are_centred_in_their_columns():
    shapes = [(100, 150), (500, 375), (300, 300), (80, 400)]
    sheet = panels([(filled(h, w), stripes(h, w, 0), stripes(h, w, 0)) for h, w in shapes], VOC_CLASSES)
    rows = boxes(sheet, MAGENTA)
    assert [(right - left, bottom - top) for left, top, right, bottom in rows] == [
        (300, 200), (180, 240), (240, 240), (300, 60)
    ]  # fmt: skip
    assert {left + right for left, _, right, _ in rows} == {2 * 20 + CELL_SIZE[0]}
    # Between two rows there is room for the caption and no more.
    assert {below[1] - above[3] for above, below in pairwise(rows)} == {36}


@settings(max_examples=8, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 600), st.integers(1, 600)), min_size=1, max_size=4))
def test_every_size_fits_the_cell_and_keeps_its_aspect(shapes):
    sheet = panels([(filled(h, w), stripes(h, w, 3), stripes(h, w, 4)) for h, w in shapes], VOC_CLASSES)
    rows = boxes(sheet, MAGENTA)
    assert len(rows) == len(shapes)
    for (left, top, right, bottom), (height, width) in zip(rows, shapes, strict=True):
        size = right - left, bottom - top
        if size[0] == CELL_SIZE[0]:
            assert size[1] == pytest.approx(max(1, size[0] * height / width), abs=0.51)
        else:
            assert size[0] == pytest.approx(max(1, size[1] * width / height), abs=0.51)
            assert size[1] == CELL_SIZE[1]
        assert size[1] <= CELL_SIZE[1]
    assert sheet.width <= 2 * 20 + 4 * CELL_SIZE[0] + 3 * 12


def test_a_narrow_sheet_still_holds_its_captions():
    sheet = panels([(filled(300, 10), stripes(300, 10, 0), stripes(300, 10, 0))], VOC_CLASSES)
    border = np.asarray(sheet)[:, [*range(10), *range(sheet.width - 10, sheet.width)]]
    assert (border == 255).all()


def test_the_caption_is_the_images_own_score_without_void():
    target = np.array([[0, 0, 1, 255]], np.uint8)
    prediction = np.array([[0, 1, 1, 2]], np.uint8)
    # Class 0: 1 of 2, class 1: 1 of 2; the 2 lies on void. Pixels: 2 of 3.
    assert caption(target, prediction) == "mean IoU 0.500   pixel acc 0.667"


def test_a_class_that_is_only_predicted_counts_as_zero():
    assert caption(np.zeros((1, 4), np.uint8), np.array([[0, 0, 0, 7]], np.uint8)) == (
        "mean IoU 0.375   pixel acc 0.750"
    )


def test_an_image_of_void_alone_has_no_score():
    void = np.full((3, 3), 255, np.uint8)
    assert caption(void, np.zeros((3, 3), np.uint8)) == "void only"
    assert panels([(filled(3, 3), void, void)], VOC_CLASSES).mode == "RGB"


def test_panels_refuse_what_they_cannot_name():
    with pytest.raises(ValueError, match=r"samples \(=\[\]\) must hold at least one"):
        panels([], VOC_CLASSES)
    sample = (filled(2, 2), stripes(2, 2, 0), stripes(2, 2, 5))
    with pytest.raises(ValueError, match=r"mask index \(=5\) must be below the 3 classes or 255 \(void\); give"):
        panels([sample], ["background", "a", "b"])


@pytest.mark.realdata
def test_a_sheet_of_real_images_is_a_small_file(tmp_path, voc_sample):
    samples, tree = [], voc_sample / "VOCdevkit" / "VOC2012"
    for name in (tree / "ImageSets" / "Segmentation" / "val.txt").read_text().split()[:6]:
        image = Image.open(tree / "JPEGImages" / f"{name}.jpg").convert("RGB")
        target = np.asarray(Image.open(tree / "SegmentationClass" / f"{name}.png"))
        samples.append((np.asarray(image), target, np.where(target == 255, 0, target).astype(np.uint8)))
    sheet = panels(samples, VOC_CLASSES)
    save_png(sheet, tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size < 0.4 * 3 * sheet.width * sheet.height


def test_errors_have_a_place_in_the_legend_where_there_are_any():
    right = panels([(filled(60, 90), stripes(60, 90, 0, 255), stripes(60, 90, 0, 1))], VOC_CLASSES)
    assert boxes(right, ERROR_COLOR) == []
    wrong = panels([(filled(60, 90), stripes(60, 90, 0, 255), stripes(60, 90, 1))], VOC_CLASSES)
    *_, swatch = boxes(wrong, ERROR_COLOR)
    assert swatch[3] - swatch[1] == 14  # 16 with the outline


def test_names_stand_below_the_inputs_and_move_nothing_else():
    samples = [(filled(100, 150), stripes(100, 150, 0), stripes(100, 150, 0, 1))] * 2
    plain, named = panels(samples, VOC_CLASSES), panels(samples, VOC_CLASSES, names=["2007_000033", "2007_000042"])
    assert plain.size == named.size
    differs = (np.asarray(plain) != np.asarray(named)).any(axis=2)
    rows = boxes(named, MAGENTA)
    for (left, _, right, bottom), other in zip(rows, (rows[1][1], named.height), strict=True):
        found = np.argwhere(differs[bottom:other])
        assert found.size
        assert found[:, 1].min() >= left
        assert found[:, 1].max() < right
        assert found[:, 0].max() < 36
        differs[bottom : bottom + 36] = False
    assert not differs.any()


@pytest.mark.parametrize("name", ["a" * 300, "folder/" * 40 + "one.jpg", "in two\nlines", ""])
def test_a_name_of_any_length_stays_below_its_input(name):
    sample = (filled(100, 150), stripes(100, 150, 0), stripes(100, 150, 0))
    plain, named = panels([sample], VOC_CLASSES), panels([sample], VOC_CLASSES, names=[name])
    assert plain.size == named.size
    differs = (np.asarray(plain) != np.asarray(named)).any(axis=(0, 2))
    assert not differs[:20].any()
    assert not differs[20 + CELL_SIZE[0] + 1 :].any()


def test_there_is_a_name_for_every_sample_or_for_none():
    sample = (filled(2, 2), stripes(2, 2, 0), stripes(2, 2, 0))
    with pytest.raises(ValueError, match=r"names \(=1 of them\) must be one per sample, of which there are 2"):
        panels([sample, sample], VOC_CLASSES, names=["one"])


def networks(count, *, rows=1):
    def sample(number):
        return filled(100, 150), stripes(100, 150, 1, 2), stripes(100, 150, number)

    return {f"network {number}": [sample(number)] * rows for number in range(count)}


@pytest.mark.parametrize("count", [1, 2, 5])
def test_side_by_side_has_a_column_per_network(count):
    columns = networks(count)
    sheet = side_by_side(columns, VOC_CLASSES, names=["2007_000033"])
    ((left, top, right, bottom),) = boxes(sheet, MAGENTA)
    assert (right - left, bottom - top) == (300, 200)
    step = (sheet.width - 2 * 20 + 12) // (2 + count)
    masks = [stripes(100, 150, 1, 2), *(samples[0][2] for samples in columns.values())]
    for place, mask in enumerate(masks, start=1):
        cell = sheet.crop((left + place * step, top, right + place * step, bottom))
        expected = Image.fromarray(colorize(mask)).resize((300, 200), Image.Resampling.NEAREST)
        np.testing.assert_array_equal(np.asarray(cell), np.asarray(expected))


def test_a_long_title_makes_lines_and_moves_the_rows_down():
    def top(title):
        (sample,) = networks(1)["network 0"]
        sheet = side_by_side({title: [sample]}, VOC_CLASSES)
        assert (np.asarray(sheet)[:, -20:] == 255).all()
        return boxes(sheet, MAGENTA)[0][1]

    assert top("lr=0.1 " * 12) == top("short") + 2 * 18
    assert top("x" * 300) == top("short") == top("")


def test_side_by_side_refuses_what_is_not_comparable():
    with pytest.raises(ValueError, match=r"columns \(={}\) must hold at least one network"):
        side_by_side({}, VOC_CLASSES)
    with pytest.raises(ValueError, match=r"columns \(={'a': 1, 'b': 2} rows\) must have the same rows"):
        side_by_side({"a": networks(1)["network 0"], "b": networks(1, rows=2)["network 0"]}, VOC_CLASSES)
    with pytest.raises(ValueError, match=r"names \(=2 of them\) must be one per sample"):
        side_by_side(networks(2), VOC_CLASSES, names=["a", "b"])

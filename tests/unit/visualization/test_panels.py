"""Panels: geometry, captions and names."""

from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from fcn.config import VOC_CLASSES
from fcn.visualization.masks import ERROR_COLOR, colorize
from fcn.visualization.panels import CELL_SIZE, draw_panels, draw_side_by_side, score_caption
from fcn.visualization.png_files import save_png
from tests.pictures import MAGENTA, boxes, filled, stripes


def plain_sample(height=100, width=150, prediction=0):
    return filled(height, width), stripes(height, width, 0), stripes(height, width, prediction)


@pytest.mark.parametrize(
    ("height", "width", "fitted"),
    [(100, 150, (300, 200)), (500, 375, (180, 240)), (1, 500, (300, 1)), (1, 1, (240, 240)), (600, 7, (3, 240))],
)
def test_row_of_input_target_prediction_and_errors(height, width, fitted):
    target, prediction = stripes(height, width, 1, 2), stripes(height, width, 2, 1)
    sheet = draw_panels([(filled(height, width), target, prediction)], VOC_CLASSES)
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
    sheet = draw_panels(
        [plain_sample(*shape) for shape in [(100, 150), (500, 375), (300, 300), (80, 400)]], VOC_CLASSES
    )
    rows = boxes(sheet, MAGENTA)
    sizes = [(right - left, bottom - top) for left, top, right, bottom in rows]
    assert sizes == [(300, 200), (180, 240), (240, 240), (300, 60)]
    assert {left + right for left, _, right, _ in rows} == {2 * 20 + CELL_SIZE[0]}
    assert {below[1] - above[3] for above, below in pairwise(rows)} == {36}  # space of the caption


def test_captions_fit_a_sheet_of_narrow_images():
    sheet = draw_panels([plain_sample(300, 10)], VOC_CLASSES)
    border = np.asarray(sheet)[:, [*range(10), *range(sheet.width - 10, sheet.width)]]
    assert (border == 255).all()


@pytest.mark.parametrize(
    ("target", "prediction", "caption"),
    [
        # Class 0: 1 of 2, class 1: 1 of 2; the 2 is predicted on void. Pixels: 2 of 3.
        ([0, 0, 1, 255], [0, 1, 1, 2], "mean IoU 0.500   pixel acc 0.667"),
        ([0, 0, 0, 0], [0, 0, 0, 7], "mean IoU 0.375   pixel acc 0.750"),  # a class that is only predicted has IoU 0
        ([255, 255], [0, 0], "void only"),
    ],
)
def test_caption_scores_one_image_without_void(target, prediction, caption):
    target, prediction = np.array([target], np.uint8), np.array([prediction], np.uint8)
    assert score_caption(target, prediction) == caption
    assert draw_panels([(filled(*target.shape), target, prediction)], VOC_CLASSES).mode == "RGB"


@pytest.mark.realdata
def test_panels_of_real_images_compress_well(tmp_path, voc_sample):
    samples, tree = [], voc_sample / "VOCdevkit" / "VOC2012"
    for name in (tree / "ImageSets" / "Segmentation" / "val.txt").read_text().split()[:6]:
        image = Image.open(tree / "JPEGImages" / f"{name}.jpg").convert("RGB")
        target = np.asarray(Image.open(tree / "SegmentationClass" / f"{name}.png"))
        samples.append((np.asarray(image), target, np.where(target == 255, 0, target).astype(np.uint8)))
    sheet = draw_panels(samples, VOC_CLASSES)
    save_png(sheet, tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size < 0.4 * 3 * sheet.width * sheet.height


def test_errors_are_in_the_legend_where_there_are_any():
    void_right = draw_panels([(filled(60, 90), stripes(60, 90, 0, 255), stripes(60, 90, 0, 1))], VOC_CLASSES)
    assert boxes(void_right, ERROR_COLOR) == []
    wrong = draw_panels([(filled(60, 90), stripes(60, 90, 0, 255), stripes(60, 90, 1))], VOC_CLASSES)
    *_, swatch = boxes(wrong, ERROR_COLOR)
    assert swatch[3] - swatch[1] == 14  # 16 with the outline


@pytest.mark.parametrize("name", ["2007_000033", "a" * 300, "folder/" * 40 + "one.jpg", "in two\nlines", ""])
def test_names_are_written_below_the_inputs(name):
    samples = [(filled(100, 150), stripes(100, 150, 0), stripes(100, 150, 0, 1))] * 2
    plain, named = draw_panels(samples, VOC_CLASSES), draw_panels(samples, VOC_CLASSES, names=[name, name])
    assert plain.size == named.size
    differs = (np.asarray(plain) != np.asarray(named)).any(axis=2)
    for left, _, right, bottom in boxes(named, MAGENTA):
        assert differs[bottom : bottom + 36, left : right + 1].any() == bool(name)
        differs[bottom : bottom + 36, left : right + 1] = False
    assert not differs.any()


def networks(count):
    return {
        f"network {number}": [(filled(100, 150), stripes(100, 150, 1, 2), stripes(100, 150, number))]
        for number in range(count)
    }


@pytest.mark.parametrize("count", [1, 2, 5])
def test_side_by_side_has_a_column_per_network(count):
    columns = networks(count)
    sheet = draw_side_by_side(columns, VOC_CLASSES, names=["2007_000033"])
    ((left, top, right, bottom),) = boxes(sheet, MAGENTA)
    assert (right - left, bottom - top) == (300, 200)
    step = (sheet.width - 2 * 20 + 12) // (2 + count)
    masks = [stripes(100, 150, 1, 2), *(samples[0][2] for samples in columns.values())]
    for place, mask in enumerate(masks, start=1):
        cell = sheet.crop((left + place * step, top, right + place * step, bottom))
        expected = Image.fromarray(colorize(mask)).resize((300, 200), Image.Resampling.NEAREST)
        np.testing.assert_array_equal(np.asarray(cell), np.asarray(expected))


def test_long_titles_wrap_and_move_the_rows_down():
    def top(title):
        sheet = draw_side_by_side({title: networks(1)["network 0"]}, VOC_CLASSES, names=[""])
        assert (np.asarray(sheet)[:, -20:] == 255).all()
        return boxes(sheet, MAGENTA)[0][1]

    assert top("lr=0.1 " * 12) == top("short") + 2 * 18
    assert top("x" * 300) == top("short") == top("")


def test_side_by_side_requires_a_sample_of_every_network_per_row():
    with pytest.raises(ValueError, match="shorter"):
        draw_side_by_side({**networks(1), "b": networks(1)["network 0"] * 2}, VOC_CLASSES, names=["a", "b"])

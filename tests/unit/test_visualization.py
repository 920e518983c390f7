import os
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from fcn.config import VOC_CLASSES
from fcn.visualization import (
    CELL_SIZE,
    caption,
    colorize,
    confusion_figure,
    legend,
    overlay,
    panels,
    row_shares,
    save_png,
)

# From the table of the VOC devkit.
KNOWN_COLORS = {0: (0, 0, 0), 1: (128, 0, 0), 2: (0, 128, 0), 15: (192, 128, 128), 20: (0, 64, 128)}
VOID_COLOR = (224, 224, 192)
MAGENTA = (255, 0, 255)  # no class has it, nor has any text
BAR_BLUE = (66, 146, 198)
SAMPLE_ROOT = Path(__file__).resolve().parents[2] / ".." / "shared" / "voc-sample" / "VOCdevkit" / "VOC2012"


def filled(height, width, color=MAGENTA):
    return np.full((height, width, 3), color, np.uint8)


def stripes(height, width, *indices):
    """A mask of vertical stripes."""
    return np.asarray(indices, np.uint8)[np.arange(width) * len(indices) // width][None].repeat(height, axis=0)


def boxes(sheet, color):
    """Left, top, right, bottom of the areas of one colour, from top to bottom; no two may share a line."""
    found = (np.asarray(sheet) == color).all(axis=2)
    edges = np.flatnonzero(np.diff(np.r_[False, found.any(axis=1), False]))
    areas = []
    for top, bottom in edges.reshape(-1, 2).tolist():
        columns = np.flatnonzero(found[top:bottom].any(axis=0))
        areas.append((int(columns[0]), top, int(columns[-1]) + 1, bottom))
    return areas


def test_known_classes_have_the_devkits_colors():
    mask = np.array([[*KNOWN_COLORS, 255]], np.uint8)
    np.testing.assert_array_equal(colorize(mask), [[*KNOWN_COLORS.values(), VOID_COLOR]])
    assert colorize(mask).dtype == np.uint8


def test_colors_tell_all_indices_apart():
    colors = colorize(np.arange(256, dtype=np.uint8)[None])[0]
    assert len({tuple(color) for color in colors.tolist()}) == 256


def test_overlay_blends_classes_and_leaves_background_and_void():
    image = filled(5, 12, (100, 50, 200))
    mask = stripes(5, 12, 0, 15, 255)
    blended = overlay(image, mask)
    np.testing.assert_array_equal(blended[:, :4], image[:, :4])
    np.testing.assert_array_equal(blended[:, 8:], image[:, 8:])
    # Inside: half of (100, 50, 200) and half of person's (192, 128, 128); at the boundary person's alone.
    np.testing.assert_array_equal(blended[:, 5:7], filled(5, 2, (146, 89, 164)))
    np.testing.assert_array_equal(blended[:, [4, 7]], filled(5, 2, KNOWN_COLORS[15]))


def test_overlay_marks_horizontal_boundaries_too():
    mask = stripes(5, 12, 0, 15, 0).T.copy()
    blended = overlay(filled(12, 5, (100, 50, 200)), mask, alpha=0.25)
    np.testing.assert_array_equal(blended[[4, 7]], filled(2, 5, (146, 89, 164)))
    np.testing.assert_array_equal(blended[5:7], filled(2, 5, (123, 70, 182)))  # a quarter of person


def test_overlay_reaches_from_the_image_to_the_mask():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (9, 11, 3), np.uint8)
    mask = rng.integers(1, 21, (9, 11), np.uint8)
    np.testing.assert_array_equal(overlay(image, mask, alpha=0), image)
    np.testing.assert_array_equal(overlay(image, mask, alpha=1), colorize(mask))


@pytest.mark.parametrize("alpha", [-0.1, 1.5, float("nan")])
def test_overlay_refuses_an_impossible_opacity(alpha):
    with pytest.raises(ValueError, match=r"alpha \(=.*\) must be between 0 and 1; 0\.5"):
        overlay(filled(2, 2), stripes(2, 2, 0), alpha=alpha)


def test_sizes_must_agree():
    with pytest.raises(ValueError, match=r"mask \(shape \(3, 2\)\) must have the image's height and width \(2, 3\)"):
        overlay(filled(2, 3), stripes(3, 2, 0))
    with pytest.raises(ValueError, match=r"image \(shape \(2, 3\)\) must be \[H, W, 3\]; convert it to RGB"):
        overlay(stripes(2, 3, 0), stripes(2, 3, 0))
    with pytest.raises(ValueError, match=r"target \(shape"):
        panels([(filled(2, 3), stripes(3, 2, 0), stripes(2, 3, 0))], VOC_CLASSES)
    with pytest.raises(ValueError, match=r"prediction \(shape"):
        panels([(filled(2, 3), stripes(2, 3, 0), stripes(3, 2, 0))], VOC_CLASSES)


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
def test_a_row_shows_input_target_and_prediction_in_cells_of_one_size(height, width, fitted):
    target, prediction = stripes(height, width, 1, 2), stripes(height, width, 2, 1)
    sheet = panels([(filled(height, width), target, prediction)], VOC_CLASSES)
    ((left, top, right, bottom),) = boxes(sheet, MAGENTA)
    assert (right - left, bottom - top) == fitted
    step = (sheet.width - 2 * 20 + 12) // 3  # margins of 20, gaps of 12
    for place, mask in ((1, target), (2, prediction)):
        cell = sheet.crop((left + place * step, top, right + place * step, bottom))
        expected = Image.fromarray(colorize(mask)).resize(fitted, Image.Resampling.NEAREST)
        np.testing.assert_array_equal(np.asarray(cell), np.asarray(expected))


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
    assert sheet.width <= 2 * 20 + 3 * CELL_SIZE[0] + 2 * 12


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


def test_the_legend_lists_the_classes_that_occur_and_no_others():
    samples = [
        (filled(4, 6), stripes(4, 6, 0, 15, 255), stripes(4, 6, 0)),
        (filled(4, 6), stripes(4, 6, 0), stripes(4, 6, 0, 8)),
    ]
    assert legend(samples, VOC_CLASSES) == [(0, "background"), (8, "cat"), (15, "person"), (255, "void")]


def test_the_legend_shows_the_swatches_in_order_below_the_last_row():
    samples = [(filled(60, 90), stripes(60, 90, 1, 2), stripes(60, 90, 2, 255))]
    sheet = panels(samples, VOC_CLASSES)
    ((_, _, _, bottom),) = boxes(sheet, MAGENTA)
    below = sheet.crop((0, bottom, *sheet.size))
    swatches = [boxes(below, color) for color in (KNOWN_COLORS[1], KNOWN_COLORS[2], VOID_COLOR)]
    assert [len(areas) for areas in swatches] == [1, 1, 1]
    lefts, tops, rights, bottoms = zip(*(areas[0] for areas in swatches), strict=True)
    assert len(set(tops)) == len(set(bottoms)) == 1
    assert [right - left for left, right in zip(lefts, rights, strict=True)] == [
        14,
        14,
        14,
    ]  # 16 with the outline
    assert list(lefts) == sorted(lefts)
    assert boxes(below, KNOWN_COLORS[15]) == []


def test_a_legend_of_all_classes_stays_on_the_sheet():
    every = stripes(220, 220, *range(21), 255)
    sheet = panels([(filled(220, 220), every, every)], VOC_CLASSES)
    ((_, _, _, bottom),) = boxes(sheet, MAGENTA)
    below = sheet.crop((0, bottom, *sheet.size))
    colors = {tuple(color) for color in colorize(every)[0].tolist()}
    shown = {color for count, color in below.getcolors(below.width * below.height) if count >= 14 * 14}
    assert colors <= shown
    assert (np.asarray(sheet)[:, -10:] == 255).all()
    assert (np.asarray(sheet)[-10:] == 255).all()


def test_panels_refuse_what_they_cannot_name():
    with pytest.raises(ValueError, match=r"samples \(=\[\]\) must hold at least one"):
        panels([], VOC_CLASSES)
    sample = (filled(2, 2), stripes(2, 2, 0), stripes(2, 2, 5))
    with pytest.raises(ValueError, match=r"mask index \(=5\) must be below the 3 classes or 255 \(void\); give"):
        panels([sample], ["background", "a", "b"])


def test_row_shares_are_the_shares_of_the_target_classes():
    confusion = np.array([[8, 2, 0], [1, 1, 2], [0, 0, 0]])
    shares = row_shares(confusion)
    np.testing.assert_allclose(shares[:2], [[0.8, 0.2, 0], [0.25, 0.25, 0.5]])
    assert np.isnan(shares[2]).all()
    assert shares.dtype == np.float64


@settings(max_examples=40, deadline=None)
@given(hnp.arrays(np.int64, (4, 4), elements=st.integers(0, 2**53)))
def test_row_shares_sum_to_one_where_the_class_has_pixels(confusion):
    sums = row_shares(confusion).sum(axis=1)
    np.testing.assert_allclose(sums[confusion.any(axis=1)], 1)
    assert np.isnan(sums[~confusion.any(axis=1)]).all()


def matrix_cells(figure, count):
    """Colour of a spot near the left top corner of each cell: the matrix begins below the title."""
    pixels = np.asarray(figure)
    colored = (pixels.max(axis=2).astype(int) - pixels.min(axis=2)) > 4
    area = boxes(Image.fromarray(np.repeat(colored[..., None], 3, axis=2).astype(np.uint8) * 255), (255,) * 3)
    top, bottom = area[0][1], area[-1][3]
    left, right = area[0][0], int(np.flatnonzero(np.diff(colored[top : top + 5].any(axis=0)))[2 * count - 1])
    rows = top + (bottom - top) * (np.arange(count) + 0.15) / count
    columns = left + (right - left) * (np.arange(count) + 0.15) / count
    return pixels[np.ix_(rows.astype(int), columns.astype(int))]


def test_the_figure_is_darker_where_the_share_is_larger():
    shares = np.array([[70, 20, 10], [5, 75, 20], [40, 2, 58]])
    counts = shares * np.array([[1000], [10], [1]])  # a rare class is as dark as a frequent one
    brightness = matrix_cells(confusion_figure(counts, ["background", "cat", "dog"]), 3).sum(axis=2)
    np.testing.assert_array_equal(np.argsort(-brightness, axis=None), np.argsort(shares, axis=None, kind="stable"))


def test_the_bars_are_as_long_as_the_ious():
    figure = confusion_figure(np.array([[300, 0], [100, 100]]), ["background", "cat"])  # IoU 0.75 and 0.5
    right = figure.crop((round(0.6 * figure.width), 0, *figure.size))
    first, second = boxes(right, BAR_BLUE)
    assert (first[2] - first[0]) / (second[2] - second[0]) == pytest.approx(1.5, abs=0.05)
    assert first[0] == second[0]


@pytest.mark.parametrize("count", [2, 7, 21])
def test_the_figure_has_a_size_for_screens(count):
    confusion = np.random.default_rng(0).integers(0, 1000, (count, count))
    figure = confusion_figure(confusion, VOC_CLASSES[:count])
    assert figure.mode == "RGB"
    assert 500 <= figure.width <= 1200
    assert 350 <= figure.height <= 1200
    pixels = np.asarray(figure)
    edges = [pixels[:5], pixels[-5:], pixels[:, :5], pixels[:, -5:]]  # nothing is cut off
    assert all((edge == 255).all() for edge in edges)


def test_the_figure_draws_classes_that_never_occur_and_any_name(recwarn):
    names = ["background", "$_{$", "a class with a rather long name"]
    confusion_figure(np.zeros((3, 3), np.int64), names)
    confusion_figure(np.array([[5, 1, 0], [0, 0, 0], [0, 0, 0]]), names)
    assert not list(recwarn)


def test_figures_drawn_in_threads_are_those_drawn_one_by_one():
    matrices = [np.random.default_rng(seed).integers(0, 1000, (3, 3)) for seed in range(3)]
    names = ["background", "cat", "dog"]
    alone = [confusion_figure(matrix, names).tobytes() for matrix in matrices]
    with ThreadPoolExecutor(3) as pool:
        together = [figure.tobytes() for figure in pool.map(lambda matrix: confusion_figure(matrix, names), matrices)]
    assert together == alone


def test_the_figure_needs_a_name_for_every_class():
    with pytest.raises(ValueError, match=r"confusion \(shape \(2, 2\)\) must be \[3, 3\]"):
        confusion_figure(np.zeros((2, 2), np.int64), ["background", "cat", "dog"])


def test_saving_makes_the_folder_and_keeps_every_pixel(tmp_path):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (7, 9, 3), np.uint8))
    path = tmp_path / "samples" / "epoch.png"
    save_png(image, path)
    with Image.open(path) as saved:
        assert saved.format == "PNG"
        assert saved.tobytes() == image.tobytes()
    assert list(path.parent.iterdir()) == [path]


def test_saving_keeps_the_indices_of_a_palette_mask(tmp_path):
    mask = Image.fromarray(stripes(4, 6, 0, 15, 255))
    mask.putpalette(colorize(np.arange(256, dtype=np.uint8)[None]).tobytes())
    save_png(mask, tmp_path / "mask.png")
    with Image.open(tmp_path / "mask.png") as saved:
        np.testing.assert_array_equal(np.asarray(saved), stripes(4, 6, 0, 15, 255))
        np.testing.assert_array_equal(np.asarray(saved.convert("RGB"))[0, 2], KNOWN_COLORS[15])


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "epoch.png"
    save_png(Image.new("RGB", (2, 2), MAGENTA), path)
    before = path.read_bytes()
    with pytest.raises(OSError, match="cannot write mode F as PNG"):
        save_png(Image.new("F", (2, 2)), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_save_that_cannot_be_put_in_place_leaves_no_temporary_file(tmp_path):
    path = tmp_path / "epoch.png"
    (path / "in_the_way").mkdir(parents=True)
    with pytest.raises(OSError, match=r"epoch\.png"):
        save_png(Image.new("RGB", (2, 2)), path)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(os.name != "posix", reason="file modes and name limits of POSIX")
def test_a_saved_file_is_as_readable_as_any_other_and_may_have_a_long_name(tmp_path):
    (tmp_path / "other").touch()
    path = tmp_path / ("x" * 251 + ".png")
    save_png(Image.new("RGB", (2, 2)), path)
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.realdata
@pytest.mark.skipif(not SAMPLE_ROOT.is_dir(), reason="the genuine VOC sample is not beside the checkout")
def test_a_sheet_of_real_images_is_a_small_file(tmp_path):
    samples = []
    for path in sorted((SAMPLE_ROOT / "SegmentationClass").glob("*.png"))[:6]:
        image = Image.open(SAMPLE_ROOT / "JPEGImages" / f"{path.stem}.jpg").convert("RGB")
        target = np.asarray(Image.open(path))
        samples.append((np.asarray(image), target, np.where(target == 255, 0, target).astype(np.uint8)))
    save_png(panels(samples, VOC_CLASSES), tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").stat().st_size < 1_000_000

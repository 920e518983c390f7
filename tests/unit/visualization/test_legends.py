import numpy as np
import pytest

from fcn.config import VOC_CLASSES
from fcn.visualization import class_legend, colorize, legend, panels
from tests.pictures import KNOWN_COLORS, MAGENTA, VOID_COLOR, boxes, filled, stripes


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


def test_the_class_legend_has_a_swatch_for_every_class_and_void():
    picture = class_legend(VOC_CLASSES)
    for color in colorize(np.array([[*range(21), 255]], np.uint8))[0].tolist():
        ((left, top, right, bottom),) = [area for area in boxes(picture, color) if area[3] - area[1] >= 14]
        assert (right - left, bottom - top) == (14, 14)  # 16 with the outline


@pytest.mark.parametrize("classes", [VOC_CLASSES, ["background", "disc"], [f"class {n}" for n in range(255)]])
def test_the_class_legend_holds_all_of_its_text(classes):
    pixels = np.asarray(class_legend(classes))
    edges = [pixels[:18], pixels[-18:], pixels[:, :18], pixels[:, -18:]]
    assert all((edge == 255).all() for edge in edges)

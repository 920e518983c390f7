"""Legends: the classes they list and their swatches."""

import numpy as np
import pytest

from fcn.config import VOC_CLASSES
from fcn.visualization.legends import draw_class_legend, legend_entries
from fcn.visualization.masks import colorize
from fcn.visualization.panels import draw_panels
from tests.pictures import KNOWN_COLORS, MAGENTA, VOID_COLOR, boxes, filled, has_white_border, stripes


def below_panels(sheet):
    ((_, _, _, bottom),) = boxes(sheet, MAGENTA)
    return sheet.crop((0, bottom, *sheet.size))


def test_legend_lists_the_classes_that_occur():
    masks = [stripes(4, 6, 0, 15, 255), stripes(4, 6, 0), stripes(4, 6, 0, 8)]
    assert [name for _, name in legend_entries(masks, VOC_CLASSES)] == ["background", "cat", "person", "void"]


def test_swatches_are_in_index_order_below_the_last_row():
    sheet = draw_panels([(filled(60, 90), stripes(60, 90, 1, 2), stripes(60, 90, 2, 255))], VOC_CLASSES)
    legend = below_panels(sheet)
    swatches = [boxes(legend, color) for color in (KNOWN_COLORS[1], KNOWN_COLORS[2], VOID_COLOR)]
    lefts, tops, rights, bottoms = zip(*(area for (area,) in swatches), strict=True)
    assert len(set(tops)) == len(set(bottoms)) == 1
    assert [right - left for left, right in zip(lefts, rights, strict=True)] == [14] * 3  # 16 with the outline
    assert list(lefts) == sorted(lefts)
    assert boxes(legend, KNOWN_COLORS[15]) == []


def test_legend_of_all_classes_fits_below_panels():
    mask = stripes(220, 220, *range(21), 255)
    sheet = draw_panels([(filled(220, 220), mask, mask)], VOC_CLASSES)
    legend = below_panels(sheet)
    colors = {tuple(color) for color in colorize(mask)[0].tolist()}
    assert colors <= {color for count, color in legend.getcolors(legend.width * legend.height) if count >= 14 * 14}
    assert has_white_border(sheet, 10)


def test_class_legend_has_a_swatch_for_every_class_and_void():
    image = draw_class_legend(VOC_CLASSES)
    for color in colorize(np.array([[*range(21), 255]], np.uint8))[0].tolist():
        ((left, top, right, bottom),) = [area for area in boxes(image, color) if area[3] - area[1] >= 14]
        assert (right - left, bottom - top) == (14, 14)  # 16 with the outline


@pytest.mark.parametrize("classes", [VOC_CLASSES, ["background", "disc"], [f"class {n}" for n in range(255)]])
def test_class_legend_fits_into_the_image(classes):
    assert has_white_border(draw_class_legend(classes), 18)

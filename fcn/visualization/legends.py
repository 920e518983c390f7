"""Which colour is which class: the line below panels, and a picture of all classes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from fcn.config import IGNORE_INDEX
from fcn.data.palette import color_map
from fcn.visualization.masks import Sample

Color = tuple[int, int, int]
Entry = tuple[Color, str]
"""A colour and what it stands for."""

INK, GREY, LINE = (33, 37, 41), (95, 101, 108), (206, 210, 214)
MARGIN, SWATCH = 20, 16
LINE_HEIGHT = 24
_TEXT_LEFT, _COLUMN_GAP = SWATCH + 7, 18
_ROWS = 11  # of a class legend: VOC's classes and void make two full columns


@cache
def font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Matplotlib's own font: it is always installed, knows most alphabets, and matches the figures."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, size)


def class_color(index: int) -> Color:
    """VOC colour of a mask value."""
    red, green, blue = color_map()[index].tolist()
    return red, green, blue


def legend(samples: Sequence[Sample], classes: Sequence[str]) -> list[tuple[int, str]]:
    """Index and name of every class in a target or prediction, in index order; void, if there, comes last.

    Raises:
        ValueError: if a mask holds an index that is neither a class nor void.
    """
    masks = [mask for _, target, prediction in samples for mask in (target, prediction)]
    indices = [int(index) for index in np.unique(np.concatenate([np.unique(mask) for mask in masks]))]
    unknown = [index for index in indices if index >= len(classes) and index != IGNORE_INDEX]
    if unknown:
        raise ValueError(
            f"mask index (={unknown[0]}) must be below the {len(classes)} classes or {IGNORE_INDEX} (void); "
            "give panels the class names that the masks were made with"
        )
    return [(index, "void" if index == IGNORE_INDEX else classes[index]) for index in indices]


def class_legend(classes: Sequence[str]) -> Image.Image:
    """All classes of a dataset and void, each with its VOC colour and its mask value, read down the columns."""
    entries = [*enumerate(classes), (IGNORE_INDEX, "void")]
    rows = min(_ROWS, len(entries))
    columns = -(-len(entries) // rows)
    number_right = _TEXT_LEFT + int(np.ceil(font(13).getlength("000")))
    step = number_right + 9 + _widest(name for _, name in entries) + _COLUMN_GAP
    size = (2 * MARGIN + columns * step - _COLUMN_GAP, 2 * MARGIN + rows * LINE_HEIGHT - (LINE_HEIGHT - SWATCH))
    picture = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(picture)
    for place, (index, name) in enumerate(entries):
        x, y = MARGIN + place // rows * step, MARGIN + place % rows * LINE_HEIGHT
        _draw_swatch(draw, class_color(index), x, y)
        draw.text((x + number_right, y + SWATCH / 2), str(index), GREY, font(13), anchor="rm")
        draw.text((x + number_right + 9, y + SWATCH / 2), name, INK, font(13), anchor="lm")
    return picture


def legend_places(entries: Sequence[Entry], *, limit: int) -> list[tuple[int, int]]:
    """Left top corner of each entry, relative to the first: one line, or columns spread over the limit."""
    step = _TEXT_LEFT + _widest(name for _, name in entries) + _COLUMN_GAP
    lines = -(-len(entries) // max(1, limit // step))
    columns = -(-len(entries) // lines)
    if lines > 1:
        step = limit // columns
    return [(index % columns * step, index // columns * LINE_HEIGHT) for index in range(len(entries))]


def draw_legend(
    draw: ImageDraw.ImageDraw, entries: Sequence[Entry], places: Sequence[tuple[int, int]], *, top: int
) -> None:
    """Draw the entries at their places, of which the first is at the left margin and at `top`."""
    for (color, name), (left, down) in zip(entries, places, strict=True):
        x, y = MARGIN + left, top + down
        _draw_swatch(draw, color, x, y)
        draw.text((x + _TEXT_LEFT, y + SWATCH / 2), name, INK, font(13), anchor="lm")


def _widest(names: Iterable[str]) -> int:
    return int(np.ceil(max(font(13).getlength(name) for name in names)))


def _draw_swatch(draw: ImageDraw.ImageDraw, color: Color, x: int, y: int) -> None:
    draw.rectangle((x, y, x + SWATCH - 1, y + SWATCH - 1), fill=color, outline=GREY)

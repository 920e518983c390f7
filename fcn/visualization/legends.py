"""Legends that name the colours of the classes: below panels, and as an image of all classes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from fcn.config import IGNORE_INDEX
from fcn.data.palette import color_map
from fcn.visualization.fonts import font_file

Color = tuple[int, int, int]
Entry = tuple[Color, str]
"""A colour and its meaning."""

INK, GREY, LINE = (33, 37, 41), (95, 101, 108), (206, 210, 214)
MARGIN, SWATCH = 20, 16
LINE_HEIGHT = 24
_TEXT_LEFT, _COLUMN_GAP = SWATCH + 7, 18
_MAX_ROWS = 11  # rows of the class legend: VOC's classes and void fill two columns


@cache
def font(size: int, *, bold: bool = False, text: str = "") -> ImageFont.FreeTypeFont:
    """Return a font that has the letters of a text: that of the figures, or else an installed one."""
    return ImageFont.truetype(font_file(text, bold=bold), size)


def legend_entries(masks: Iterable[NDArray[np.uint8]], classes: Sequence[str]) -> list[Entry]:
    """Return colour and name of every class that occurs in the masks, in index order, void last."""
    indices = np.unique(np.concatenate([np.unique(mask) for mask in masks])).tolist()
    return [(_class_color(index), "void" if index == IGNORE_INDEX else classes[index]) for index in indices]


def draw_class_legend(classes: Sequence[str]) -> Image.Image:
    """Draw all classes and void with their colours and mask values, in columns read from top to bottom."""
    entries = [*enumerate(classes), (IGNORE_INDEX, "void")]
    rows = min(_MAX_ROWS, len(entries))
    columns = -(-len(entries) // rows)
    number_right = _TEXT_LEFT + int(np.ceil(font(13).getlength("000")))
    step = number_right + 9 + _max_width(name for _, name in entries) + _COLUMN_GAP
    size = (2 * MARGIN + columns * step - _COLUMN_GAP, 2 * MARGIN + rows * LINE_HEIGHT - (LINE_HEIGHT - SWATCH))
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    for place, (index, name) in enumerate(entries):
        x, y = MARGIN + place // rows * step, MARGIN + place % rows * LINE_HEIGHT
        _draw_swatch(draw, _class_color(index), x, y)
        draw.text((x + number_right, y + SWATCH / 2), str(index), GREY, font(13), anchor="rm")
        draw.text((x + number_right + 9, y + SWATCH / 2), name, INK, font(13, text=name), anchor="lm")
    return image


def draw_entries(entries: Sequence[Entry], *, max_width: int) -> Image.Image:
    """Draw the entries in one line, or in columns spread over `max_width` pixels."""
    step = _TEXT_LEFT + _max_width(name for _, name in entries) + _COLUMN_GAP
    lines = -(-len(entries) // max(1, max_width // step))
    columns = -(-len(entries) // lines)
    if lines > 1:
        step = max_width // columns
    image = Image.new("RGB", (max_width, (lines - 1) * LINE_HEIGHT + SWATCH), "white")
    draw = ImageDraw.Draw(image)
    for index, (color, name) in enumerate(entries):
        x, y = index % columns * step, index // columns * LINE_HEIGHT
        _draw_swatch(draw, color, x, y)
        draw.text((x + _TEXT_LEFT, y + SWATCH / 2), name, INK, font(13, text=name), anchor="lm")
    return image


def _class_color(index: int) -> Color:
    red, green, blue = color_map()[index].tolist()
    return red, green, blue


def _max_width(names: Iterable[str]) -> int:
    return int(np.ceil(max(font(13, text=name).getlength(name) for name in names)))


def _draw_swatch(draw: ImageDraw.ImageDraw, color: Color, x: int, y: int) -> None:
    draw.rectangle((x, y, x + SWATCH - 1, y + SWATCH - 1), fill=color, outline=GREY)

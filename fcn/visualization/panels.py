"""Sheets of samples: input, target, prediction and errors side by side, with scores and a legend."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from fcn.config import IGNORE_INDEX
from fcn.visualization.legends import (
    GREY,
    INK,
    LINE,
    MARGIN,
    SWATCH,
    class_color,
    draw_legend,
    font,
    legend,
    legend_places,
)
from fcn.visualization.masks import ERROR_COLOR, Sample, check_sizes, colorize, error_map

CELL_SIZE = (300, 240)
"""Width and height into which every picture of a panel is fitted: landscape VOC images become 300 x 225."""

_TITLES = ("input", "target", "prediction", "errors")
_GAP, _TITLE_HEIGHT, _CAPTION_HEIGHT = 12, 28, 36


def panels(samples: Sequence[Sample], classes: Sequence[str], *, names: Sequence[str] | None = None) -> Image.Image:
    """A sheet with a row per sample: input, target, prediction, errors; below, a legend of what occurs.

    Each picture is fitted into `CELL_SIZE`, aspect kept, masks by nearest neighbour. The scores below a row
    (see `caption`) are those of its image alone.

    Args:
        samples: image, target and prediction of every row.
        classes: names in the order of the mask values.
        names: one per sample, such as the image's; stands below the input. Shortened where it is too long.

    Raises:
        ValueError: if there is no sample, sizes within a sample differ, a mask holds an unnamed index, or there
            is not one name per sample.
    """
    names = _check(samples, names)
    entries = [(class_color(index), name) for index, name in legend(samples, classes)]
    entries += [(ERROR_COLOR, "wrong")] if any(_wrong(sample) for sample in samples) else []
    rows = [_row_cells(sample) for sample in samples]
    captions = [caption(target, prediction) for _, target, prediction in samples]
    width = _column_width(rows, captions)
    inner = len(_TITLES) * (width + _GAP) - _GAP
    places = legend_places(entries, limit=inner)
    rule = MARGIN + _TITLE_HEIGHT + sum(row[0].height + _CAPTION_HEIGHT for row in rows)
    top = rule + _GAP
    sheet = Image.new("RGB", (2 * MARGIN + inner, top + places[-1][1] + SWATCH + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    _draw_rows(sheet, draw, rows, list(zip(names, captions, strict=True)), width=width)
    draw.line([(MARGIN, rule), (MARGIN + inner - 1, rule)], fill=LINE)
    draw_legend(draw, entries, places, top=top)
    return sheet


def caption(target: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> str:
    """Mean IoU, over the classes in target or prediction, and pixel accuracy of one image, void left out."""
    valid = target != IGNORE_INDEX
    if not valid.any():
        return "void only"
    target, prediction = target[valid], prediction[valid]
    pairs = [(target == index, prediction == index) for index in np.union1d(target, prediction)]
    ious = [np.sum(there & found) / np.sum(there | found) for there, found in pairs]
    return f"mean IoU {np.mean(ious):.3f}   pixel acc {np.mean(target == prediction):.3f}"


def _check(samples: Sequence[Sample], names: Sequence[str] | None) -> Sequence[str]:
    """The names, empty ones if there are none."""
    if not samples:
        raise ValueError("samples (=[]) must hold at least one; draw no panels when there is none")
    for image, target, prediction in samples:
        check_sizes(image, target, name="target")
        check_sizes(image, prediction, name="prediction")
    if names is not None and len(names) != len(samples):
        raise ValueError(f"names (={len(names)} of them) must be one per sample, of which there are {len(samples)}")
    return names or [""] * len(samples)


def _wrong(sample: Sample) -> bool:
    _, target, prediction = sample
    return bool(((target != prediction) & (target != IGNORE_INDEX)).any())


def _row_cells(sample: Sample) -> list[Image.Image]:
    """The four pictures of a sample, fitted into the cell."""
    image, *masks = sample
    height, width = image.shape[:2]
    scale = min(CELL_SIZE[0] / width, CELL_SIZE[1] / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    fitted = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
    target, prediction = (np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)) for mask in masks)
    errors = error_map(np.asarray(fitted), target, prediction)
    return [fitted, *(Image.fromarray(picture) for picture in (colorize(target), colorize(prediction), errors))]


def _column_width(rows: Sequence[Sequence[Image.Image]], captions: Sequence[str]) -> int:
    widest_text = max(font(13).getlength(text) for text in captions)
    return max(int(np.ceil(widest_text)), *(row[0].width for row in rows))


def _draw_rows(
    sheet: Image.Image,
    draw: ImageDraw.ImageDraw,
    rows: Sequence[Sequence[Image.Image]],
    captions: Sequence[tuple[str, str]],
    *,
    width: int,
) -> None:
    """Draw titles, pictures and captions: each row's name below its input, its scores below its prediction."""
    lefts = [MARGIN + column * (width + _GAP) for column in range(len(_TITLES))]
    for left, title in zip(lefts, _TITLES, strict=True):
        draw.text((left + width / 2, MARGIN + 8), title, INK, font(15, bold=True), anchor="mm")
    top = MARGIN + _TITLE_HEIGHT
    for row, (name, scores) in zip(rows, captions, strict=True):
        for left, cell in zip(lefts, row, strict=True):
            sheet.paste(cell, (left + (width - cell.width) // 2, top))
        top += row[0].height
        for left, text in ((lefts[0], _shortened(name, width)), (lefts[2], scores)):
            draw.text((left + width / 2, top + 13), text, GREY, font(13), anchor="mm")
        top += _CAPTION_HEIGHT


def _shortened(text: str, width: int) -> str:
    """The text on one line, its middle left out until it fits: names often differ at the end."""
    short = whole = " ".join(text.split())
    kept = len(whole)
    while font(13).getlength(short) > width:
        kept -= 1
        short = f"{whole[: kept // 2]}\N{HORIZONTAL ELLIPSIS}{whole[len(whole) - (kept + 1) // 2 :]}"
    return short

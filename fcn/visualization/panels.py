"""Sheets of samples: input, target, prediction and errors side by side, with scores and a legend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

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
    Entry,
    class_color,
    draw_legend,
    font,
    legend,
    legend_places,
)
from fcn.visualization.masks import ERROR_COLOR, Sample, check_sizes, colorize, error_map

CELL_SIZE = (300, 240)
"""Width and height into which every picture of a panel is fitted: landscape VOC images become 300 x 225."""

_GAP, _TITLE_HEIGHT, _TITLE_LINE, _CAPTION_HEIGHT = 12, 28, 18, 36


class Row(NamedTuple):
    """A row of a sheet.

    Attributes:
        cells: pictures of one size, a column each.
        name: stands below the first; shortened where it is too long.
        scores: texts below other columns, by the column's number.
    """

    cells: Sequence[Image.Image]
    name: str
    scores: Mapping[int, str]


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
    rows = [
        Row(_row_cells(sample), name, {2: caption(*sample[1:])}) for sample, name in zip(samples, names, strict=True)
    ]
    return _sheet(["input", "target", "prediction", "errors"], rows, entries)


def side_by_side(
    columns: Mapping[str, Sequence[Sample]], classes: Sequence[str], *, names: Sequence[str] | None = None
) -> Image.Image:
    """A sheet that compares networks on the same images: input, target, and a prediction per network.

    As `panels`, with the same scores below every prediction.

    Args:
        columns: by the title of each network, image, target and prediction of every row; images and targets are
            the same in all.
        classes: names in the order of the mask values.
        names: one per row, such as the image's.

    Raises:
        ValueError: as `panels`, or if there is no network, or two have not as many rows.
    """
    if not columns:
        raise ValueError("columns (={}) must hold at least one network; draw no panels when there is none")
    numbers = {title: len(samples) for title, samples in columns.items()}
    if len(set(numbers.values())) > 1:
        raise ValueError(f"columns (={numbers} rows) must have the same rows; predict the same images by all")
    for samples in columns.values():
        names = _check(samples, names)
    every = [sample for samples in columns.values() for sample in samples]
    entries = [(class_color(index), name) for index, name in legend(every, classes)]
    rows = [_compared(samples, name) for *samples, name in zip(*columns.values(), names or (), strict=True)]
    return _sheet(["input", "target", *columns], rows, entries)


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


def _compared(samples: Sequence[Sample], name: str) -> Row:
    """Of one image: input, target, every network's prediction with its scores."""
    image, target, *_ = _row_cells(samples[0])
    found = [_row_cells(sample)[2] for sample in samples]
    scores = {column: caption(*sample[1:]) for column, sample in enumerate(samples, start=2)}
    return Row([image, target, *found], name, scores)


def _sheet(titles: Sequence[str], rows: Sequence[Row], entries: Sequence[Entry]) -> Image.Image:
    """Titles, rows, a rule, and the legend below it."""
    widest_text = max(font(13).getlength(text) for row in rows for text in row.scores.values())
    width = max(int(np.ceil(widest_text)), *(row.cells[0].width for row in rows))
    inner = len(titles) * (width + _GAP) - _GAP
    headings = [_wrapped(title, width) for title in titles]
    above = MARGIN + _TITLE_HEIGHT + (max(map(len, headings)) - 1) * _TITLE_LINE
    places = legend_places(entries, limit=inner)
    rule = above + sum(row.cells[0].height + _CAPTION_HEIGHT for row in rows)
    top = rule + _GAP
    sheet = Image.new("RGB", (2 * MARGIN + inner, top + places[-1][1] + SWATCH + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    lefts = [MARGIN + column * (width + _GAP) for column in range(len(titles))]
    for left, lines in zip(lefts, headings, strict=True):
        for number, line in enumerate(reversed(lines)):  # the last line stands above the picture
            middle = above - _TITLE_HEIGHT + 8 - number * _TITLE_LINE
            draw.text((left + width / 2, middle), line, INK, font(15, bold=True), anchor="mm")
    _draw_rows(sheet, draw, rows, lefts, top=above, width=width)
    draw.line([(MARGIN, rule), (MARGIN + inner - 1, rule)], fill=LINE)
    draw_legend(draw, entries, places, top=top)
    return sheet


def _draw_rows(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, rows: Sequence[Row], lefts: Sequence[int], *, top: int, width: int
) -> None:
    """Draw pictures and what stands below them."""
    for row in rows:
        for left, cell in zip(lefts, row.cells, strict=True):
            sheet.paste(cell, (left + (width - cell.width) // 2, top))
        top += row.cells[0].height
        for column, text in {**row.scores, 0: _shortened(row.name, width)}.items():
            draw.text((lefts[column] + width / 2, top + 13), text, GREY, font(13), anchor="mm")
        top += _CAPTION_HEIGHT


def _wrapped(title: str, width: int) -> list[str]:
    """The title in lines broken at spaces; a word that is too long is shortened."""
    lines: list[str] = [""]
    for word in title.split():
        longer = f"{lines[-1]} {word}".strip()
        fits = font(15, bold=True).getlength(longer) <= width
        lines = [*lines[:-1], longer] if fits or not lines[-1] else [*lines, word]
    return [_shortened(line, width, bold=True) for line in lines]


def _shortened(text: str, width: int, *, bold: bool = False) -> str:
    """The text on one line, its middle left out until it fits: names often differ at the end."""
    short = whole = " ".join(text.split())
    kept = len(whole)
    while font(15 if bold else 13, bold=bold).getlength(short) > width:
        kept -= 1
        short = f"{whole[: kept // 2]}\N{HORIZONTAL ELLIPSIS}{whole[len(whole) - (kept + 1) // 2 :]}"
    return short

"""Panels: images, targets and predictions side by side, with scores and a legend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from fcn.config import IGNORE_INDEX
from fcn.visualization import legends
from fcn.visualization.error_map import ERROR_COLOR, error_map
from fcn.visualization.figure_style import ELLIPSIS
from fcn.visualization.legends import GREY, INK, MARGIN, font
from fcn.visualization.masks import check_sizes, colorize

Sample = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]
"""Image [H, W, 3], target [H, W] and prediction [H, W], all uint8 and of the same height and width."""

CELL_SIZE = (300, 240)
"""Width and height into which every image of a panel is fitted: landscape VOC images become 300 x 225."""

_GAP, _TITLE_HEIGHT, _TITLE_LINE, _CAPTION_HEIGHT = 12, 28, 18, 36


class _Row(NamedTuple):
    """A row of panels.

    Attributes:
        cells: images of one size, one per column.
        name: text below the first cell.
        scores: texts below other cells, by column number.
    """

    cells: Sequence[Image.Image]
    name: str
    scores: Mapping[int, str]


def draw_panels(
    samples: Sequence[Sample], classes: Sequence[str], *, names: Sequence[str] | None = None
) -> Image.Image:
    """Draw a row per sample: input, target, prediction and errors; below, a legend of the classes that occur.

    Each image is fitted into `CELL_SIZE` with its aspect ratio, masks by nearest neighbour. The scores below a
    prediction (see `score_caption`) are those of that image alone.

    Args:
        samples: image, target and prediction of every row.
        classes: class names in the order of the mask values.
        names: a name per sample, written below the input; a long one is shortened.

    Raises:
        ValueError: if the sizes within a sample differ.
    """
    cells = [_draw_cells(sample) for sample in samples]
    scores = [{2: score_caption(target, prediction)} for _, target, prediction in samples]
    entries = legends.legend_entries([mask for _, *masks in samples for mask in masks], classes)
    if any(_num_wrong(target, prediction) for _, target, prediction in samples):
        entries.append((ERROR_COLOR, "wrong"))
    rows = [_Row(*row) for row in zip(cells, names or [""] * len(samples), scores, strict=True)]
    return _draw_sheet(["input", "target", "prediction", "errors"], rows, entries)


def draw_side_by_side(
    columns: Mapping[str, Sequence[Sample]], classes: Sequence[str], *, names: Sequence[str]
) -> Image.Image:
    """Draw the predictions of several networks on the same images: a row per image, a column per network.

    Args:
        columns: samples of every row by the title of the network; images and targets are the same for all.
        classes: class names in the order of the mask values.
        names: a name per row.

    Raises:
        ValueError: if the sizes within a sample differ, or the networks have different numbers of samples.
    """
    rows = []
    for name, *samples in zip(names, *columns.values(), strict=True):
        cells = [_draw_cells(sample) for sample in samples]
        scores = {column: score_caption(*masks) for column, (_, *masks) in enumerate(samples, start=2)}
        rows.append(_Row([*cells[0][:2], *(predictions for _, _, predictions, _ in cells)], name, scores))
    masks = [mask for samples in columns.values() for _, *masks in samples for mask in masks]
    return _draw_sheet(["input", "target", *columns], rows, legends.legend_entries(masks, classes))


def score_caption(target: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> str:
    """Return mean IoU, over the classes in target or prediction, and pixel accuracy of one image without void."""
    valid = target != IGNORE_INDEX
    if not valid.any():
        return "void only"
    target, prediction = target[valid], prediction[valid]
    pairs = [(target == index, prediction == index) for index in np.union1d(target, prediction)]
    ious = [np.sum(in_target & in_prediction) / np.sum(in_target | in_prediction) for in_target, in_prediction in pairs]
    return f"mean IoU {np.mean(ious):.3f}   pixel acc {np.mean(target == prediction):.3f}"


def _num_wrong(target: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> int:
    return int(((target != prediction) & (target != IGNORE_INDEX)).sum())


def _draw_cells(sample: Sample) -> list[Image.Image]:
    """Draw input, target, prediction and errors of a sample, fitted into the cell."""
    image, target, prediction = sample
    check_sizes(image, target, name="target")
    check_sizes(image, prediction, name="prediction")
    height, width = image.shape[:2]
    scale = min(CELL_SIZE[0] / width, CELL_SIZE[1] / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    fitted = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
    masks = [np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)) for mask in (target, prediction)]
    errors = error_map(np.asarray(fitted), *masks)
    return [fitted, *(Image.fromarray(pixels) for pixels in (*map(colorize, masks), errors))]


def _draw_sheet(titles: Sequence[str], rows: Sequence[_Row], entries: Sequence[legends.Entry]) -> Image.Image:
    """Draw titles, rows, a line, and the legend below it."""
    max_text = max(font(13).getlength(text) for row in rows for text in row.scores.values())
    width = max(int(np.ceil(max_text)), *(row.cells[0].width for row in rows))
    inner = len(titles) * (width + _GAP) - _GAP
    headings = [_wrap(title, width) for title in titles]
    top = MARGIN + _TITLE_HEIGHT + (max(map(len, headings)) - 1) * _TITLE_LINE
    places = legends.legend_places(entries, max_width=inner)
    line = top + sum(row.cells[0].height + _CAPTION_HEIGHT for row in rows)
    height = line + _GAP + places[-1][1] + legends.SWATCH + MARGIN
    sheet = Image.new("RGB", (2 * MARGIN + inner, height), "white")
    draw = ImageDraw.Draw(sheet)
    lefts = [MARGIN + column * (width + _GAP) for column in range(len(titles))]
    for left, lines in zip(lefts, headings, strict=True):
        for number, text in enumerate(reversed(lines)):  # the last line is next to the image
            middle = top - _TITLE_HEIGHT + 8 - number * _TITLE_LINE
            draw.text((left + width / 2, middle), text, INK, font(15, bold=True), anchor="mm")
    _draw_rows(sheet, draw, rows, lefts, top=top, width=width)
    draw.line([(MARGIN, line), (MARGIN + inner - 1, line)], fill=legends.LINE)
    legends.draw_legend(draw, entries, places, top=line + _GAP)
    return sheet


def _draw_rows(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, rows: Sequence[_Row], lefts: Sequence[int], *, top: int, width: int
) -> None:
    """Draw the cells and the texts below them."""
    for row in rows:
        for left, cell in zip(lefts, row.cells, strict=True):
            sheet.paste(cell, (left + (width - cell.width) // 2, top))
        top += row.cells[0].height
        for column, text in {**row.scores, 0: _shorten(row.name, width)}.items():
            draw.text((lefts[column] + width / 2, top + 13), text, GREY, font(13), anchor="mm")
        top += _CAPTION_HEIGHT


def _wrap(title: str, width: int) -> list[str]:
    """Break a title at spaces into lines of at most `width`; a word that is too long is shortened."""
    lines: list[str] = [""]
    for word in title.split():
        longer = f"{lines[-1]} {word}".strip()
        fits = font(15, bold=True).getlength(longer) <= width
        lines = [*lines[:-1], longer] if fits or not lines[-1] else [*lines, word]
    return [_shorten(line, width, bold=True) for line in lines]


def _shorten(text: str, width: int, *, bold: bool = False) -> str:
    """Put a text on one line and leave out its middle until it fits: names often differ at the end."""
    short = whole = " ".join(text.split())
    kept = len(whole)
    while font(15 if bold else 13, bold=bold).getlength(short) > width:
        kept -= 1
        short = f"{whole[: kept // 2]}{ELLIPSIS}{whole[len(whole) - (kept + 1) // 2 :]}"
    return short

"""Panels: images, targets and predictions side by side, with scores and a legend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from fcn.config import IGNORE_INDEX
from fcn.visualization import legends
from fcn.visualization.figure_style import ELLIPSIS
from fcn.visualization.legends import GREY, INK, MARGIN, font
from fcn.visualization.masks import ERROR_COLOR, colorize, error_map

Sample = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]
"""Image [H, W, 3], target [H, W] and prediction [H, W], all uint8 and of the same height and width."""

CELL_SIZE = (300, 240)
"""Width and height into which every image of a panel is fitted: landscape VOC images become 300 x 225."""

_GAP, _TITLE_HEIGHT, _TITLE_LINE, _CAPTION_HEIGHT = 12, 28, 18, 36


Row = tuple[Sequence[Image.Image], Sequence[str]]
"""Cells of one size, one per column, and the texts below them."""


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
    """
    rows: list[Row] = []
    for name, (image, target, prediction) in zip(names or [""] * len(samples), samples, strict=True):
        captions = [name, "", score_caption(target, prediction), ""]
        rows.append((_draw_cells(image, target, prediction), captions))
    entries = legends.legend_entries([mask for _, *masks in samples for mask in masks], classes)
    if any(((target != prediction) & (target != IGNORE_INDEX)).any() for _, target, prediction in samples):
        entries.append((ERROR_COLOR, "wrong"))
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
        ValueError: if the networks have different numbers of samples.
    """
    rows: list[Row] = []
    for name, *samples in zip(names, *columns.values(), strict=True):
        cells = [_draw_cells(*sample) for sample in samples]
        captions = [name, "", *(score_caption(target, prediction) for _, target, prediction in samples)]
        rows.append(([*cells[0][:2], *(predictions for _, _, predictions, _ in cells)], captions))
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


def _draw_cells(
    image: NDArray[np.uint8], target: NDArray[np.uint8], prediction: NDArray[np.uint8]
) -> list[Image.Image]:
    """Draw input, target, prediction and errors of a sample, fitted into the cell."""
    height, width = target.shape
    scale = min(CELL_SIZE[0] / width, CELL_SIZE[1] / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    fitted = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
    masks = [np.asarray(Image.fromarray(mask).resize(size, Image.Resampling.NEAREST)) for mask in (target, prediction)]
    errors = error_map(np.asarray(fitted), *masks)
    return [fitted, *(Image.fromarray(pixels) for pixels in (*map(colorize, masks), errors))]


def _draw_sheet(titles: Sequence[str], rows: Sequence[Row], entries: Sequence[legends.Entry]) -> Image.Image:
    """Draw titles, rows, a line, and the legend below it."""
    longest_score = max(font(13).getlength(text) for _, captions in rows for text in captions[1:])
    width = max(int(np.ceil(longest_score)), *(cells[0].width for cells, _ in rows))
    inner = len(titles) * (width + _GAP) - _GAP
    headings = [_wrap(title, width) for title in titles]
    legend = legends.draw_entries(entries, max_width=inner)
    top = MARGIN + _TITLE_HEIGHT + (max(map(len, headings)) - 1) * _TITLE_LINE
    line = top + sum(cells[0].height + _CAPTION_HEIGHT for cells, _ in rows)
    sheet = Image.new("RGB", (2 * MARGIN + inner, line + _GAP + legend.height + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    lefts = [MARGIN + column * (width + _GAP) for column in range(len(titles))]
    for left, lines in zip(lefts, headings, strict=True):
        for number, text in enumerate(reversed(lines)):  # the last line is next to the image
            middle = top - _TITLE_HEIGHT + 8 - number * _TITLE_LINE
            draw.text((left + width / 2, middle), text, INK, font(15, bold=True, text=text), anchor="mm")
    for cells, captions in rows:
        for left, cell, text in zip(lefts, cells, captions, strict=True):
            sheet.paste(cell, (left + (width - cell.width) // 2, top))
            place = (left + width / 2, top + cell.height + 13)
            draw.text(place, _shorten(text, width), GREY, font(13, text=text), anchor="mm")
        top += cells[0].height + _CAPTION_HEIGHT
    draw.line([(MARGIN, line), (MARGIN + inner - 1, line)], fill=legends.LINE)
    sheet.paste(legend, (MARGIN, line + _GAP))
    return sheet


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
    short = whole = text.replace("\n", " ")
    kept = len(whole)
    while font(15 if bold else 13, bold=bold, text=whole).getlength(short) > width:
        kept -= 1
        short = f"{whole[: kept // 2]}{ELLIPSIS}{whole[len(whole) - (kept + 1) // 2 :]}"
    return short

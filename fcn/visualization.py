"""Pictures: masks in colour, overlays, sample panels, the confusion matrix; and how they are saved.

Everything here is NumPy arrays in and NumPy arrays or PIL images out. Matplotlib is used through its objects,
never through pyplot, so that no global state is shared between threads and no figure has to be closed.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Sequence
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from fcn.config import IGNORE_INDEX
from fcn.data.voc import color_map

Sample = tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]
"""Image [H, W, 3], target [H, W] and prediction [H, W], all uint8 and of one size."""

CELL_SIZE = (300, 240)
"""Width and height into which every picture of a panel is fitted: landscape VOC images become 300 x 225."""

_TITLES = ("input", "target", "prediction")
_MARGIN, _GAP = 20, 12
_TITLE_HEIGHT, _CAPTION_HEIGHT, _LEGEND_LINE, _SWATCH = 28, 36, 24, 16
_INK, _GREY, _LINE = (33, 37, 41), (95, 101, 108), (206, 210, 214)


def colorize(mask: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """VOC colours of a mask [H, W], as uint8 [H, W, 3]; void (255) is the devkit's off-white, 224 224 192."""
    return color_map()[mask]


def overlay(image: NDArray[np.uint8], mask: NDArray[np.uint8], *, alpha: float = 0.5) -> NDArray[np.uint8]:
    """The image with its classes laid over it in VOC colours, uint8 [H, W, 3]; background and void untouched.

    Args:
        image: uint8 [H, W, 3], RGB.
        mask: uint8 [H, W], class indices.
        alpha: opacity of the classes, 0 to 1; the outermost pixels of a class are twice as opaque.

    Raises:
        ValueError: if the sizes differ or alpha is out of range.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha (={alpha}) must be between 0 and 1; 0.5 shows image and classes alike")
    _check_sizes(image, mask, name="mask")
    opacity = np.where(_boundary(mask), min(1.0, 2 * alpha), alpha)
    opacity[(mask == 0) | (mask == IGNORE_INDEX)] = 0
    blended = image + opacity[..., None] * (colorize(mask).astype(np.float64) - image)
    return np.rint(blended).astype(np.uint8)


def _boundary(mask: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Pixels with another value above, below, left or right of them."""
    padded = np.pad(mask, 1, mode="edge")
    neighbours = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    boundary: NDArray[np.bool_] = np.any([mask != neighbour for neighbour in neighbours], axis=0)
    return boundary


def panels(samples: Sequence[Sample], classes: Sequence[str]) -> Image.Image:
    """A sheet with a row per sample: input, target, prediction; below, the legend of the classes that occur.

    Each picture is fitted into `CELL_SIZE`, aspect kept, masks by nearest neighbour. The scores below a row
    (see `caption`) are those of its image alone.

    Raises:
        ValueError: if there is no sample, sizes within a sample differ, or a mask holds an unnamed index.
    """
    _check_samples(samples)
    entries = legend(samples, classes)
    rows = [_row_cells(sample) for sample in samples]
    captions = [caption(target, prediction) for _, target, prediction in samples]
    width = _column_width(rows, captions)
    places = _legend_places([name for _, name in entries], limit=3 * width + 2 * _GAP)
    rule = _MARGIN + _TITLE_HEIGHT + sum(row[0].height + _CAPTION_HEIGHT for row in rows)
    top = rule + _GAP
    size = (2 * _MARGIN + 3 * width + 2 * _GAP, top + places[-1][1] + _SWATCH + _MARGIN)
    sheet = Image.new("RGB", size, "white")
    _draw_rows(sheet, rows, captions, width=width)
    draw = ImageDraw.Draw(sheet)
    draw.line([(_MARGIN, rule), (size[0] - _MARGIN - 1, rule)], fill=_LINE)
    _draw_legend(draw, entries, places, top=top)
    return sheet


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


def caption(target: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> str:
    """Mean IoU, over the classes in target or prediction, and pixel accuracy of one image, void left out."""
    valid = target != IGNORE_INDEX
    if not valid.any():
        return "void only"
    target, prediction = target[valid], prediction[valid]
    pairs = [(target == index, prediction == index) for index in np.union1d(target, prediction)]
    ious = [np.sum(there & found) / np.sum(there | found) for there, found in pairs]
    return f"mean IoU {np.mean(ious):.3f}   pixel acc {np.mean(target == prediction):.3f}"


def _check_samples(samples: Sequence[Sample]) -> None:
    if not samples:
        raise ValueError("samples (=[]) must hold at least one; draw no panels when there is none")
    for image, target, prediction in samples:
        _check_sizes(image, target, name="target")
        _check_sizes(image, prediction, name="prediction")


def _check_sizes(image: NDArray[np.uint8], mask: NDArray[np.uint8], *, name: str) -> None:
    if image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image (shape {image.shape}) must be [H, W, 3]; convert it to RGB")
    if mask.shape != image.shape[:2]:
        raise ValueError(
            f"{name} (shape {mask.shape}) must have the image's height and width {image.shape[:2]}; "
            "resize it by nearest neighbour"
        )


def _row_cells(sample: Sample) -> list[Image.Image]:
    """The three pictures of a sample, fitted into the cell."""
    image, target, prediction = sample
    height, width = target.shape
    scale = min(CELL_SIZE[0] / width, CELL_SIZE[1] / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    masks = [Image.fromarray(colorize(mask)) for mask in (target, prediction)]
    cells = [Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)]
    return cells + [mask.resize(size, Image.Resampling.NEAREST) for mask in masks]


@cache
def _font(size: int, *, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Matplotlib's own font: it is always installed, knows most alphabets, and matches the figures."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name, size)


def _column_width(rows: Sequence[Sequence[Image.Image]], captions: Sequence[str]) -> int:
    """Wide enough for every picture and for every caption."""
    widest_text = max(_font(13).getlength(text) for text in captions)
    return max(int(np.ceil(widest_text)), *(row[0].width for row in rows))


def _draw_rows(
    sheet: Image.Image, rows: Sequence[Sequence[Image.Image]], captions: Sequence[str], *, width: int
) -> None:
    draw = ImageDraw.Draw(sheet)
    lefts = [_MARGIN + column * (width + _GAP) for column in range(3)]
    for left, title in zip(lefts, _TITLES, strict=True):
        draw.text((left + width / 2, _MARGIN + 8), title, _INK, _font(15, bold=True), anchor="mm")
    top = _MARGIN + _TITLE_HEIGHT
    for row, text in zip(rows, captions, strict=True):
        for left, cell in zip(lefts, row, strict=True):
            sheet.paste(cell, (left + (width - cell.width) // 2, top))
        top += row[0].height
        draw.text((lefts[2] + width / 2, top + 13), text, _GREY, _font(13), anchor="mm")
        top += _CAPTION_HEIGHT


def _legend_places(names: Sequence[str], *, limit: int) -> list[tuple[int, int]]:
    """Left top corner of each entry, relative to the first: one line, or columns spread over the limit."""
    widest = max(_font(13).getlength(name) for name in names)
    step = _SWATCH + 7 + int(np.ceil(widest)) + 18
    lines = -(-len(names) // max(1, limit // step))
    columns = -(-len(names) // lines)
    if lines > 1:
        step = limit // columns
    return [(index % columns * step, index // columns * _LEGEND_LINE) for index in range(len(names))]


def _draw_legend(
    draw: ImageDraw.ImageDraw, entries: list[tuple[int, str]], places: list[tuple[int, int]], *, top: int
) -> None:
    for (index, name), (left, down) in zip(entries, places, strict=True):
        x, y = _MARGIN + left, top + down
        color = tuple(int(value) for value in color_map()[index])
        draw.rectangle((x, y, x + _SWATCH - 1, y + _SWATCH - 1), fill=color, outline=_GREY)
        draw.text((x + _SWATCH + 7, y + _SWATCH / 2), name, _INK, _font(13), anchor="lm")


def row_shares(confusion: NDArray[np.int64]) -> NDArray[np.float64]:
    """Share of each target class's pixels that went to each predicted class, float64 [C, C].

    Rows sum to 1; the row of a class without target pixels is NaN.
    """
    totals = confusion.sum(axis=1, keepdims=True).astype(np.float64)
    return confusion / np.where(totals > 0, totals, np.nan)


def confusion_figure(confusion: NDArray[np.int64], classes: Sequence[str]) -> Image.Image:
    """The confusion matrix as per cent of each target class, with the IoU of each class at its right.

    Args:
        confusion: int64 [C, C], pixel counts; rows are targets, columns predictions.
        classes: the C names.

    Raises:
        ValueError: if the matrix is not [C, C].
    """
    count = len(classes)
    if confusion.shape != (count, count):
        raise ValueError(
            f"confusion (shape {confusion.shape}) must be [{count}, {count}], a row and a column per class; "
            "give the names of the classes it was counted with"
        )
    side = max(2.2, (0.62 if count <= 12 else 0.38) * count)  # inches, as all of the layout
    names = 0.085 * max(len(name) for name in classes)
    figure = Figure(figsize=(side + names + 2.2, side + 0.7 * names + 1.0), dpi=100, facecolor="white")
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.12)
    matrix, bars = figure.subplots(1, 2, sharey=True, width_ratios=[side, 1.1])
    _draw_shares(matrix, row_shares(confusion), classes)
    _draw_ious(bars, confusion)
    buffer = BytesIO()
    figure.savefig(buffer, format="png")
    return Image.open(buffer).convert("RGB")


def _draw_shares(axes: Axes, shares: NDArray[np.float64], classes: Sequence[str]) -> None:
    decimals, size = (1, 9) if len(classes) <= 12 else (0, 8)
    places = range(len(classes))
    # Confusions of a few per cent are what one looks for: the root makes them visible.
    look: dict[str, Any] = {"cmap": "Blues", "norm": PowerNorm(0.5, 0, 100), "edgecolors": "white"}
    axes.pcolormesh(places, places, 100 * shares, shading="nearest", linewidth=1, **look)
    axes.invert_yaxis()
    axes.set_facecolor("0.9")  # shows through where a row is NaN
    # Without parse_math=False, a class name with two dollar signs would be read as a formula.
    axes.set_xticks(places, classes, parse_math=False, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(places, classes, parse_math=False)
    axes.set(xlabel="prediction", ylabel="target")
    axes.set_title("share of the target class, %", fontsize=10)
    axes.tick_params(length=0, labelsize=9)
    axes.spines[:].set_visible(False)
    # Out of the layout, which would measure hundreds of texts that fit anyway.
    style: dict[str, Any] = {"ha": "center", "va": "center_baseline", "fontsize": size, "in_layout": False}
    for row, column in np.argwhere(100 * shares >= 0.5 * 0.1**decimals):
        share = 100 * shares[row, column]
        color = "white" if share > 30 else "0.15"
        axes.text(column, row, f"{share:.{decimals}f}", color=color, **style)


def _draw_ious(axes: Axes, confusion: NDArray[np.int64]) -> None:
    """A bar and a figure per class, in line with the matrix's rows; a class that never occurs has a dash."""
    hits = np.diag(confusion).astype(np.float64)
    unions = confusion.sum(axis=0) + confusion.sum(axis=1) - hits
    ious = hits / np.where(unions > 0, unions, np.nan)
    texts = ["\N{EN DASH}" if np.isnan(iou) else f"{iou:.3f}" for iou in ious]
    mean = f"{np.nanmean(ious):.3f}" if unions.any() else "\N{EN DASH}"
    rows, thickness = range(len(ious)), min(0.5, 0.14 * len(ious))
    axes.barh(rows, 1, height=thickness, color="0.92")
    axes.barh(rows, np.nan_to_num(ious), height=thickness, color="#4292c6")
    axes.set_xlim(0, 1)
    axes.set_xticks([])
    axes.tick_params(length=0, labelleft=False)
    axes.spines[:].set_visible(False)
    axes.set_title(f"IoU, mean {mean}", fontsize=10)
    for row, text in enumerate(texts):
        axes.text(1.06, row, text, va="center_baseline", fontsize=9)


def save_png(image: Image.Image, path: Path) -> None:
    """Save a picture as PNG, whole or not at all: a reader never meets half a file. Makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not tempfile: its files are readable by their owner alone. Not from path.name: that may be at its limit.
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        image.save(temporary, format="PNG")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)

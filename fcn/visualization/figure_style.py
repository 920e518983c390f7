"""Style and rendering shared by all Matplotlib figures."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from fcn.visualization.fonts import set_fallback_fonts

BLUE, ORANGE, GREEN, PINK, AMBER, SKY = "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"
"""Colours of Okabe and Ito, distinguishable by people with colour blindness; without yellow, which is lost on white."""

DASH, MINUS, ELLIPSIS = "\N{EN DASH}", "\N{MINUS SIGN}", "\N{HORIZONTAL ELLIPSIS}"


def new_figure(width: float, height: float, *, dpi: int = 100) -> Figure:
    """Create a white figure; width and height are in inches."""
    return Figure(figsize=(width, height), dpi=dpi, facecolor="white")


def render_figure(figure: Figure) -> Image.Image:
    """Render a Matplotlib figure as an RGB image."""
    set_fallback_fonts(figure)
    canvas: Any = FigureCanvasAgg(figure)  # without type annotations
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from")  # logged once by `fallback_fonts`
        canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def remove_frame(axes: Axes, *sides: str) -> None:
    """Hide the frame and the tick marks of axes, or only the given sides of the frame."""
    axes.spines[list(sides or axes.spines)].set_visible(False)
    if not sides:
        axes.tick_params(length=0)


def shorten_label(text: str, length: int) -> str:
    """Put a text on one line of at most `length` characters; the end of a longer one is left out."""
    text = " ".join(text.split())
    return text if len(text) <= length else f"{text[: length - 1]}{ELLIPSIS}"

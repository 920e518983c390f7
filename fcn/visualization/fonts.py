"""Fonts of figures: Matplotlib's own, and installed fonts for letters that it lacks, such as those of Chinese."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import matplotlib
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.text import Text

log = logging.getLogger(__name__)

FAMILY = "DejaVu Sans"
"""Matplotlib's own font: always installed, and covers most alphabets."""

_reported: set[str] = set()

NOT_LETTERS = ("Last Resort", "cm", "STIXSize")
"""First letters of the names of Matplotlib's fonts whose characters are boxes or parts of formulas."""


def own_font(*, bold: bool = False) -> str:
    """Return the file of Matplotlib's own font."""
    return str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"))


def missing_letters(text: str, file: str) -> frozenset[str]:
    """Return the printable characters of a text that a font file lacks."""
    characters = _characters(file)
    return frozenset(each for each in text if each.isprintable() and ord(each) not in characters)


def font_file(text: str, *, bold: bool = False) -> str:
    """Return the file of Matplotlib's own font, or of the installed font that has most letters of the text."""
    missing = missing_letters(text, own_font())
    fallbacks = [file for _, file in fallback_fonts(missing)]
    return min([own_font(bold=bold), *fallbacks], key=lambda file: len(missing_letters(text, file)))


@cache
def fallback_fonts(letters: frozenset[str]) -> tuple[tuple[str, str], ...]:
    """Return family and file of installed fonts that together have these letters; log the first that none has."""
    chosen: list[tuple[str, str]] = []
    for entry in _installed() if letters else ():
        if len(left := missing_letters("".join(sorted(letters)), entry.fname)) < len(letters):
            chosen.append((entry.name, entry.fname))
            letters = left
        if not letters:
            break
    if letters:
        _report("".join(sorted(letters)))
    return tuple(chosen)


def _report(letters: str) -> None:
    """Log once per process that letters are drawn as boxes."""
    if not _reported:
        log.warning("no installed font has %s; such letters are boxes in figures; install Noto Sans CJK", letters)
    _reported.add(letters)


def set_fallback_fonts(figure: Figure) -> None:
    """Let the texts of a figure use installed fonts for letters that Matplotlib's own font lacks."""
    for text in figure.findobj(Text):
        assert isinstance(text, Text)
        if missing := missing_letters(text.get_text(), own_font()):
            text.set_fontfamily([FAMILY, *(family for family, _ in fallback_fonts(missing))])


def _installed() -> Iterator[font_manager.FontEntry]:
    entries = font_manager.fontManager.ttflist
    regular = [entry for entry in entries if entry.style == "normal" and not entry.name.startswith(NOT_LETTERS)]
    yield from sorted(regular, key=lambda entry: (entry.weight not in (400, "normal", "regular"), entry.name))


@cache
def _characters(file: str) -> frozenset[int]:
    return frozenset(font_manager.get_font(file).get_charmap())

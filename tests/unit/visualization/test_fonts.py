"""Letters that Matplotlib's own font lacks: drawn with an installed font, or reported once."""

import logging
import warnings

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager

from fcn.visualization import fonts
from fcn.visualization.confusion_matrix import draw_confusion_matrix
from fcn.visualization.legends import draw_class_legend

CAT = "\N{CJK UNIFIED IDEOGRAPH-732B}"


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """A font that has only the letter CAT, a filled square, and the family name Cats."""
    pen = TTGlyphPen(None)
    for move, place in (("moveTo", (0, 0)), ("lineTo", (0, 1000)), ("lineTo", (1000, 1000)), ("lineTo", (1000, 0))):
        getattr(pen, move)(place)
    pen.closePath()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "cat"])
    builder.setupCharacterMap({ord(CAT): "cat"})
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "cat": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (1000, 0), "cat": (1000, 0)})
    builder.setupHorizontalHeader(ascent=1000, descent=0)
    builder.setupNameTable({"familyName": "Cats", "styleName": "Regular"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(tmp_path / "cats.ttf")
    monkeypatch.setattr(font_manager.fontManager, "ttflist", list(font_manager.fontManager.ttflist))
    font_manager.fontManager.addfont(tmp_path / "cats.ttf")
    fonts.fallback_fonts.cache_clear()
    yield str(tmp_path / "cats.ttf")
    fonts.fallback_fonts.cache_clear()


def test_own_font_is_used_for_the_letters_that_it_has():
    assert fonts.font_file("cat, été, кот") == fonts.own_font()
    assert fonts.fallback_fonts(frozenset()) == ()


def test_installed_font_is_used_for_other_letters(installed):
    assert fonts.missing_letters(f"a {CAT}", fonts.own_font()) == {CAT}
    assert fonts.fallback_fonts(frozenset(CAT)) == (("Cats", installed),)
    assert fonts.font_file(CAT) == installed


def test_figure_and_legend_draw_the_letter_of_the_installed_font(installed):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figure = draw_confusion_matrix(np.eye(2, dtype=np.int64), ["background", CAT], np.ones(2))
    assert _largest_dark_square(np.asarray(figure)) >= 8
    assert _largest_dark_square(np.asarray(draw_class_legend(["background", CAT]))) >= 8


def _largest_dark_square(pixels):
    """Return the side of the largest uniformly dark grey square, which no letter of the other font contains."""
    dark = (pixels.max(axis=-1) < 60) & (np.ptp(pixels.astype(int), axis=-1) < 12)
    side = 0
    while any(
        window.all()
        for window in np.lib.stride_tricks.sliding_window_view(dark, (side + 1, side + 1)).reshape(-1, (side + 1) ** 2)
    ):
        side += 1
    return side


def test_missing_letters_are_reported_once(caplog):
    fonts.fallback_fonts.cache_clear()
    fonts._reported.clear()
    letter = "\N{EGYPTIAN HIEROGLYPH A001}"
    with caplog.at_level(logging.WARNING), warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in (letter, f"other {letter}", "\N{EGYPTIAN HIEROGLYPH A002}"):
            draw_confusion_matrix(np.eye(2, dtype=np.int64), ["background", name], np.ones(2))
    if fonts.font_file(letter) == fonts.own_font():
        (record,) = caplog.records
        assert f"no installed font has {letter}; such letters are boxes in figures" in record.getMessage()

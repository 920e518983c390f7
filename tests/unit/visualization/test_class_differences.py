"""Bars of differences per class: values are read from the drawn bars."""

import numpy as np
import pytest

from fcn.visualization import class_differences
from fcn.visualization.class_differences import draw_class_differences
from tests.pictures import has_white_border


def test_bars_are_sorted_and_missing_scores_have_no_bar(monkeypatch):
    monkeypatch.setattr(class_differences, "render_figure", lambda figure: figure)
    figure = draw_class_differences(
        ["a", "$b$", "c", "d"], [0.1, 0.3, np.nan, -0.2], names=("one", "two"),
        intervals=[(0, 0.2), (0.2, 0.4), (np.nan, np.nan), (-0.3, -0.1)],
    )  # fmt: skip
    (axes,) = figure.axes
    bars = [
        (label.get_text(), bar.get_width()) for label, bar in zip(axes.get_yticklabels(), axes.patches, strict=True)
    ]
    assert bars == [("$b$", 0.3), ("a", 0.1), ("d", -0.2)]
    intervals = [path.vertices[:, 0].tolist() for path in axes.collections[0].get_paths()]
    assert intervals == [[0.2, 0.4], [0, 0.2], [-0.3, -0.1]]
    assert [text.get_text() for text in axes.texts] == ["+0.300", "+0.100", "\N{MINUS SIGN}0.200"]
    assert [text.get_text() for text in figure.texts] == ["A  one", "B  two"]
    assert len({bar.get_facecolor() for bar in axes.patches}) == 2


@pytest.mark.parametrize("count", [1, 21])
def test_bars_fit_into_the_image(count, recwarn):
    differences = np.linspace(-0.4, 0.9, count).tolist()
    image = draw_class_differences(["class name " * 9] * count, differences, names=("n" * 300, "m"))
    assert has_white_border(image, 3)
    assert not list(recwarn)

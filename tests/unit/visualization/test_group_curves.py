"""Curves of groups of runs: values are read from the drawn lines."""

import numpy as np
import pytest

from fcn.visualization import group_curves
from fcn.visualization.group_curves import MAX_GROUPS, draw_group_curves
from tests.pictures import has_white_border


def rows(*values):
    return [{"epoch": str(epoch), "val/mean_iou": str(value), "train/loss": str(2 - value)}
            for epoch, value in enumerate(values)]  # fmt: skip


@pytest.fixture
def unrendered(monkeypatch):
    """Return figures instead of images, to save time."""
    monkeypatch.setattr(group_curves, "render_figure", lambda figure: figure)


def legend_texts(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def lines_of(axes):
    return [(np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist()) for line in axes.lines]


@pytest.mark.usefixtures("unrendered")
def test_thin_line_per_run_and_thick_mean_line():
    figure = draw_group_curves({"a": [rows(0.1, 0.2, 0.3), rows(0.3, 0.4)], "b": [rows(0.5)]})
    iou, loss = figure.axes
    assert lines_of(iou) == [
        ([1, 2, 3], [0.1, 0.2, 0.3]),
        ([1, 2], [0.3, 0.4]),
        ([1, 2], [pytest.approx(0.2), pytest.approx(0.3)]),
        ([1], [0.5]),
    ]
    assert [line.get_linewidth() for line in iou.lines] == [0.8, 0.8, 2.2, 2.2]
    assert len({line.get_color() for line in iou.lines}) == 2
    assert lines_of(loss)[3] == ([1], [1.5])
    assert [axes.get_title(loc="left") for axes in (iou, loss)] == ["val/mean_iou", "train/loss"]
    assert legend_texts(figure) == ["a", "b", "thin lines: runs; thick lines: mean over seeds"]


@pytest.mark.usefixtures("unrendered")
def test_groups_beyond_the_maximum_are_counted_in_a_note():
    groups = {f"group {number}": [rows(number / 20)] for number in range(12)}
    figure = draw_group_curves(groups)
    assert legend_texts(figure) == [*list(groups)[:MAX_GROUPS], "4 more groups are not drawn"]
    assert len({line.get_color() for line in figure.axes[0].lines}) == MAX_GROUPS


@pytest.mark.usefixtures("unrendered")
def test_group_names_are_drawn_literally_and_shortened():
    figure = draw_group_curves({"_hidden": [rows(0.1)], "$x$ <b>": [rows(0.2)], "n" * 300: [rows(0.3)]})
    assert legend_texts(figure)[:2] == ["_hidden", "$x$ <b>"]
    assert len(legend_texts(figure)[2]) == 110
    assert not any(text.get_parse_math() for text in figure.legends[0].get_texts())


@pytest.mark.usefixtures("unrendered")
def test_missing_columns_and_groups_without_an_epoch():
    figure = draw_group_curves({"a": [[{"epoch": "0", "train/loss": "1"}]], "b": [[]]}, metric="val/fw_iou")
    assert [text.get_text() for text in figure.axes[0].texts] == ["not measured"]
    assert not figure.axes[1].texts
    assert legend_texts(figure) == ["a"]
    with pytest.raises(ValueError, match="at least one run with an epoch"):
        draw_group_curves({"a": [[]]})


@pytest.mark.parametrize("count", [1, 9])
def test_group_curves_fit_into_the_image(count, recwarn):
    groups = {f"{number} " + "long=name " * 20: [rows(0.1, 0.3), rows(0.2, 0.5)] for number in range(count)}
    assert has_white_border(draw_group_curves(groups), 5)
    assert not list(recwarn)

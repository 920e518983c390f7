"""Curves and bars that compare: what is drawn is looked up in the figures."""

import numpy as np
import pytest
from matplotlib.figure import Figure

from fcn.visualization import MOST_GROUPS, comparison_figures, delta_figure, group_curves


def rows(*values, **columns):
    return [{"epoch": str(epoch), "val/mean_iou": str(value), "train/loss": str(2 - value), **columns}
            for epoch, value in enumerate(values)]  # fmt: skip


@pytest.fixture
def drawn(monkeypatch):
    """Gives the figure that would be rendered, for speed without rendering."""
    monkeypatch.setattr(comparison_figures, "figure_image", lambda figure: figure)

    def draw(function, *arguments, **options):
        figure = function(*arguments, **options)
        assert isinstance(figure, Figure)
        return figure

    return draw


def legend_of(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def lines_of(axes):
    return [(np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist()) for line in axes.lines]


def test_seeds_are_thin_and_their_mean_is_thick(drawn):
    figure = drawn(group_curves, {"a": [rows(0.1, 0.2, 0.3), rows(0.3, 0.4)], "b": [rows(0.5)]})
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
    assert legend_of(figure) == ["a", "b", "thin: runs; thick: their mean"]


def test_of_many_groups_the_first_are_drawn_and_the_others_counted(drawn):
    groups = {f"group {number}": [rows(number / 20)] for number in range(12)}
    figure = drawn(group_curves, groups)
    assert legend_of(figure) == [*list(groups)[:MOST_GROUPS], "4 more groups are not drawn"]
    assert len({line.get_color() for line in figure.axes[0].lines}) == MOST_GROUPS


def test_names_are_shown_as_they_are(drawn):
    figure = drawn(group_curves, {"_hidden": [rows(0.1)], "$x$ <b>": [rows(0.2)], "n" * 300: [rows(0.3)]})
    assert legend_of(figure)[:2] == ["_hidden", "$x$ <b>"]
    assert len(legend_of(figure)[2]) == 110
    assert not any(text.get_parse_math() for text in figure.legends[0].get_texts())


def test_what_was_not_measured_is_said(drawn):
    figure = drawn(group_curves, {"a": [[{"epoch": "0", "train/loss": "1"}]]}, metric="val/fw_iou")
    assert [text.get_text() for text in figure.axes[0].texts] == ["not measured"]
    assert not figure.axes[1].texts


def test_groups_without_an_epoch_are_left_out(drawn):
    assert legend_of(drawn(group_curves, {"a": [[]], "b": [rows(0.1)]})) == ["b"]
    with pytest.raises(ValueError, match="groups must hold at least one run with an epoch"):
        group_curves({"a": [[]]})


@pytest.mark.parametrize("count", [1, 9])
def test_nothing_is_cut(count, recwarn):
    picture = group_curves(
        {f"{number} " + "long=name " * 20: [rows(0.1, 0.3), rows(0.2, 0.5)] for number in range(count)}
    )
    pixels = np.asarray(picture)
    assert all((edge == 255).all() for edge in (pixels[:5], pixels[-5:], pixels[:, :5], pixels[:, -5:]))
    assert not list(recwarn)


def bars_of(figure):
    (axes,) = figure.axes
    widths = [bar.get_width() for bar in axes.patches]
    return dict(zip([label.get_text() for label in axes.get_yticklabels()], widths, strict=True))


def test_bars_are_sorted_and_a_class_without_a_score_has_none(drawn):
    figure = drawn(
        delta_figure, ["a", "$b$", "c", "d"], [0.1, 0.3, np.nan, -0.2], names=("one", "two"),
        intervals=[(0, 0.2), (0.2, 0.4), (np.nan, np.nan), (-0.3, -0.1)],
    )  # fmt: skip
    assert list(bars_of(figure).items()) == [("$b$", 0.3), ("a", 0.1), ("d", -0.2)]
    (axes,) = figure.axes
    whiskers = [path.vertices[:, 0].tolist() for path in axes.collections[0].get_paths()]
    assert whiskers == [[0.2, 0.4], [0, 0.2], [-0.3, -0.1]]
    assert [text.get_text() for text in axes.texts] == ["+0.300", "+0.100", "\N{MINUS SIGN}0.200"]
    assert [text.get_text() for text in figure.texts] == ["A  one", "B  two"]
    assert len({bar.get_facecolor() for bar in axes.patches}) == 2


@pytest.mark.parametrize("count", [1, 21])
def test_no_bar_is_cut(count, recwarn):
    deltas = np.linspace(-0.4, 0.9, count).tolist()
    picture = delta_figure(["class name " * 9] * count, deltas, names=("n" * 300, "m"))
    pixels = np.asarray(picture)
    assert all((edge == 255).all() for edge in (pixels[:3], pixels[-3:], pixels[:, :3], pixels[:, -3:]))
    assert not list(recwarn)


def test_bars_need_a_number():
    for deltas in ([0.1], [np.nan, np.nan]):
        with pytest.raises(ValueError, match=rf"deltas \(={len(deltas)}\) must be one per class, of which there are 2"):
            delta_figure(["a", "b"], deltas, names=("one", "two"))

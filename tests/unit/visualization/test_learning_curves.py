"""Learning curves of a run and of groups of runs: values are read from the drawn lines."""

import numpy as np
import pytest

from fcn.visualization import learning_curves
from fcn.visualization.learning_curves import MAX_GROUPS, draw_group_curves, draw_learning_curves, measured_points
from tests.pictures import has_white_border


def row(epoch, **cells):
    return {"epoch": str(epoch), "step": str(10 * (epoch + 1)), **cells}


def full_rows(count):
    """Rows of metrics.csv of a run validated in every epoch."""
    return [
        row(epoch, **{
            "train/loss": str(2 / (epoch + 1)), "train/pixel_accuracy": str(0.9 - 0.3 / (epoch + 1)),
            "val/loss": str(2.5 / (epoch + 1)), "val/pixel_accuracy": str(0.8 - 0.3 / (epoch + 1)),
            "val/mean_iou": str(0.5 - abs(epoch - 4) / 10), "lr": str(1e-3 * (1 - epoch / count)),
        })
        for epoch in range(count)
    ]  # fmt: skip


@pytest.fixture
def draw(monkeypatch):
    """Function that draws rows and returns loss, accuracy, mean IoU and learning rate axes, without rendering."""
    monkeypatch.setattr(learning_curves, "render_figure", lambda figure: figure.axes)
    return draw_learning_curves


def line(axes, label):
    (match,) = [line for line in axes.lines if line.get_label() == label]
    return np.asarray(match.get_xdata()).tolist(), np.asarray(match.get_ydata()).tolist()


def legend_texts(legend):
    return [text.get_text() for text in legend.get_texts()]


def test_epochs_count_from_one_and_the_best_is_marked(draw):
    loss, accuracy, mean_iou, learning_rate = draw(full_rows(7))
    assert line(loss, "train") == (list(range(1, 8)), pytest.approx([2 / n for n in range(1, 8)]))
    assert line(loss, "val")[1] == pytest.approx([2.5 / n for n in range(1, 8)])
    assert line(accuracy, "val")[1][0] == pytest.approx(0.5)
    assert line(learning_rate, "lr")[1][0] == pytest.approx(1e-3)
    assert mean_iou.get_title(loc="right") == "best 0.500 in epoch 5"
    star = mean_iou.lines[-1]
    assert (star.get_xdata(), star.get_ydata()) == ([5], [0.5])
    assert legend_texts(loss.get_legend()) == ["train", "val"]
    assert not loss.figure.texts


def test_rows_within_epochs_are_drawn_over_steps(draw):
    scores = [{"step": str(step), "val/mean_iou": f"0.{step}"} for step in (4, 8, 10)]
    axes = draw([row(epoch) | cells for epoch, cells in zip((0, 1, 1), scores, strict=True)])
    assert line(axes[2], "val")[0] == [4, 8, 10]
    assert axes[2].get_title(loc="right") == "best 0.800 at step 8"
    assert {one.get_xlabel() for one in axes} == {"step"}


def test_first_of_equal_scores_is_the_best(draw):
    axes = draw([row(epoch, **{"val/mean_iou": "0.25"}) for epoch in range(3)])
    assert axes[2].get_title(loc="right") == "best 0.250 in epoch 1"


def test_epochs_without_validation(draw):
    rows = full_rows(6)
    for number in (0, 1, 3, 4):
        rows[number] |= {"val/loss": "", "val/pixel_accuracy": "", "val/mean_iou": ""}
    loss, _, mean_iou, _ = draw(rows)
    assert line(loss, "val")[0] == [3, 6]
    assert len(line(loss, "train")[0]) == 6
    assert mean_iou.get_title(loc="right") == "best 0.400 in epoch 6"


def test_d2l_curves_are_dashed_and_explained(draw):
    d2l = {"d2l/train_loss": "1.5", "d2l/train_acc": "0.7", "d2l/test_loss": "1.7", "d2l/test_acc": "0.6"}
    loss, accuracy, *_ = draw([cells | d2l for cells in full_rows(2)])
    for axes, train, test in ((loss, 1.5, 1.7), (accuracy, 0.7, 0.6)):
        assert legend_texts(axes.get_legend()) == ["train", "val", "d2l/train", "d2l/test"]
        assert [line(axes, label)[1] for label in ("d2l/train", "d2l/test")] == [[train] * 2, [test] * 2]
        assert [curve.get_linestyle() for curve in axes.lines] == ["-", "-", "--", "--"]
    (note,) = loss.figure.texts
    assert note.get_text() == "d2l/...: the d2l protocol, in which void counts as background"


def test_missing_values_are_marked_as_not_measured(draw):
    axes = draw([row(0, **{"train/loss": "1.2", "val/mean_iou": "nan", "lr": "0.0"})])
    assert [[text.get_text() for text in one.texts] for one in axes] == [[], ["not measured"], ["not measured"], []]
    assert line(axes[3], "lr") == ([1], [0.0])


def test_log_scale_where_the_first_loss_is_far_above_the_others(draw):
    losses = [{"train/loss": str(value)} for value in (300.0, 2.0, 1.5, 1.2)]
    assert draw([row(epoch, **loss) for epoch, loss in enumerate(losses)])[0].get_yscale() == "log"
    assert draw(full_rows(5))[0].get_yscale() == "linear"


@pytest.mark.parametrize("count", [1, 7, 100])
def test_learning_curves_fit_into_the_image(count, recwarn):
    image = draw_learning_curves(full_rows(count))
    assert (image.mode, image.size) == ("RGB", (1000, 700))
    assert has_white_border(image, 5)
    for color in ([0x00, 0x72, 0xB2], [0xD5, 0x5E, 0x00]):  # of the train and val curves
        assert (np.asarray(image) == color).all(axis=2).any()
    assert not list(recwarn)


def test_measured_points_are_finite_numbers():
    rows = [row(0, x="1.5"), row(1, x=""), row(2), row(3, x="nan"), row(4, x="inf"), {"epoch": 5, "x": 0.0}]
    assert measured_points(rows, "x") == ([1, 6], [1.5, 0.0])


def rows(*values):
    return [{"epoch": str(epoch), "val/mean_iou": str(value), "train/loss": str(2 - value)}
            for epoch, value in enumerate(values)]  # fmt: skip


@pytest.fixture
def draw_groups(monkeypatch):
    """Function that draws groups and returns the figure, without rendering."""
    monkeypatch.setattr(learning_curves, "render_figure", lambda figure: figure)
    return draw_group_curves


def lines_of(axes):
    return [(np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist()) for line in axes.lines]


def test_thin_line_per_run_and_thick_mean_line(draw_groups):
    figure = draw_groups({"a": [rows(0.1, 0.2, 0.3), rows(0.3, 0.4)], "b": [rows(0.5)]})
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
    assert legend_texts(figure.legends[0]) == ["a", "b", "thin lines: runs; thick lines: their mean"]


def test_groups_beyond_the_maximum_are_counted_in_a_note(draw_groups):
    groups = {f"group {number}": [rows(number / 20)] for number in range(12)}
    figure = draw_groups(groups)
    assert legend_texts(figure.legends[0]) == [*list(groups)[:MAX_GROUPS], "4 more groups are not drawn"]
    assert len({line.get_color() for line in figure.axes[0].lines}) == MAX_GROUPS


def test_group_names_are_drawn_literally_and_shortened(draw_groups):
    figure = draw_groups({"_hidden": [rows(0.1)], "$x$ <b>": [rows(0.2)], "n" * 300: [rows(0.3)]})
    assert legend_texts(figure.legends[0])[:2] == ["_hidden", "$x$ <b>"]
    assert len(legend_texts(figure.legends[0])[2]) == 110
    assert not any(text.get_parse_math() for text in figure.legends[0].get_texts())


def test_missing_columns_and_groups_without_an_epoch(draw_groups):
    figure = draw_groups({"a": [[{"epoch": "0", "train/loss": "1"}]], "b": [[]]}, metric="val/fw_iou")
    assert [text.get_text() for text in figure.axes[0].texts] == ["not measured"]
    assert not figure.axes[1].texts
    assert legend_texts(figure.legends[0]) == ["a"]


@pytest.mark.parametrize("count", [1, 9])
def test_group_curves_fit_into_the_image(count, recwarn):
    groups = {f"{number} " + "long=name " * 20: [rows(0.1, 0.3), rows(0.2, 0.5)] for number in range(count)}
    assert has_white_border(draw_group_curves(groups), 5)
    assert not list(recwarn)

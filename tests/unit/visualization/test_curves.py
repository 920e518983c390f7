"""Learning curves: numbers are looked up in the drawn lines, the picture is judged by what must be seen in it."""

import numpy as np
import pytest
from matplotlib.axes import Axes

from fcn.visualization import curves, curves_figure

TRAIN, VAL = "#0072b2", "#d55e00"


def row(epoch, **cells):
    return {"epoch": str(epoch), "step": str(10 * epoch), **cells}


def full_rows(count):
    """As metrics.csv of a run that was validated in every epoch."""
    return [
        row(epoch, **{
            "train/loss": str(2 / (epoch + 1)), "train/pixel_accuracy": str(0.9 - 0.3 / (epoch + 1)),
            "val/loss": str(2.5 / (epoch + 1)), "val/pixel_accuracy": str(0.8 - 0.3 / (epoch + 1)),
            "val/mean_iou": str(0.5 - abs(epoch - 4) / 10), "lr": str(1e-3 * (1 - epoch / count)),
        })
        for epoch in range(count)
    ]  # fmt: skip


@pytest.fixture
def drawn(monkeypatch):
    """Draws rows; gives the axes by the first word of their title: lines by label, and texts."""

    def draw(rows):
        axes = {}
        set_title = Axes.set_title

        def remember(self, label, **options):
            if options.get("loc") == "left":
                axes[label.split()[0]] = self
            return set_title(self, label, **options)

        monkeypatch.setattr(Axes, "set_title", remember)
        monkeypatch.setattr(curves, "figure_image", lambda figure: None)  # for speed
        curves_figure(rows)
        return axes

    return draw


def line(axes, label):
    (found,) = [line for line in axes.lines if line.get_label() == label]
    return np.asarray(found.get_xdata()).tolist(), np.asarray(found.get_ydata()).tolist()


def holds(picture, color):
    wanted = [int(color[place : place + 2], 16) for place in (1, 3, 5)]
    return bool((np.asarray(picture) == wanted).all(axis=2).any())


def test_epochs_are_counted_from_one_and_the_best_is_named(drawn):
    axes = drawn(full_rows(7))
    assert line(axes["loss"], "train") == (list(range(1, 8)), pytest.approx([2 / n for n in range(1, 8)]))
    assert line(axes["loss"], "val")[1] == pytest.approx([2.5 / n for n in range(1, 8)])
    assert line(axes["pixel"], "val")[1][0] == pytest.approx(0.5)
    assert line(axes["learning"], "lr")[1][0] == pytest.approx(1e-3)
    assert axes["val"].get_title(loc="right") == "best 0.500 in epoch 5"
    star = axes["val"].lines[-1]
    assert (star.get_xdata(), star.get_ydata()) == ([5], [0.5])


def test_of_equal_scores_the_first_is_the_best_as_in_best_ckpt(drawn):
    axes = drawn([row(epoch, **{"val/mean_iou": "0.25"}) for epoch in range(3)])
    assert axes["val"].get_title(loc="right") == "best 0.250 in epoch 1"


def test_epochs_without_validation_leave_no_gap_and_count_on(drawn):
    rows = full_rows(6)
    for number in (0, 1, 3, 4):
        rows[number] |= {"val/loss": "", "val/pixel_accuracy": "", "val/mean_iou": ""}
    axes = drawn(rows)
    assert line(axes["loss"], "val")[0] == [3, 6]
    assert len(line(axes["loss"], "train")[0]) == 6
    assert axes["val"].get_title(loc="right") == "best 0.400 in epoch 6"


def test_the_chapters_curves_are_apart_from_ours(drawn):
    chapter = {"d2l/train_loss": "1.5", "d2l/train_acc": "0.7", "d2l/test_loss": "1.7", "d2l/test_acc": "0.6"}
    axes = drawn([entry | chapter for entry in full_rows(2)])
    for name, values in (("loss", (1.5, 1.7)), ("pixel", (0.7, 0.6))):
        labels = [text.get_text() for text in axes[name].get_legend().get_texts()]
        assert labels == ["train", "val", "d2l/train", "d2l/test"]
        for label, value in zip(("d2l/train", "d2l/test"), values, strict=True):
            assert line(axes[name], label)[1] == [value] * 2
        assert [found.get_linestyle() for found in axes[name].lines] == ["-", "-", "--", "--"]
    (note,) = axes["loss"].figure.texts
    assert note.get_text() == "d2l/...: the chapter's protocol, where void counts as background"


def test_a_run_of_ours_says_nothing_of_the_chapter(drawn):
    axes = drawn(full_rows(2))
    assert [text.get_text() for text in axes["loss"].get_legend().get_texts()] == ["train", "val"]
    assert not axes["loss"].figure.texts


def test_what_was_not_measured_is_said(drawn):
    axes = drawn([row(0, **{"train/loss": "1.2", "val/mean_iou": "nan", "lr": "0.0"})])
    texts = {name: [text.get_text() for text in found.texts] for name, found in axes.items()}
    assert texts == {"loss": [], "pixel": ["not measured"], "val": ["not measured"], "learning": []}
    assert line(axes["learning"], "lr") == ([1], [0.0])


def test_a_first_loss_far_above_the_others_does_not_press_them_flat(drawn):
    losses = [{"train/loss": str(value)} for value in (300.0, 2.0, 1.5, 1.2)]
    assert drawn([row(epoch, **loss) for epoch, loss in enumerate(losses)])["loss"].get_yscale() == "log"
    assert drawn(full_rows(5))["loss"].get_yscale() == "linear"


@pytest.mark.parametrize("count", [1, 7, 100])
def test_nothing_is_cut_and_both_curves_are_seen(count, recwarn):
    picture = curves_figure(full_rows(count))
    assert picture.mode == "RGB"
    assert picture.size == (1000, 700)
    pixels = np.asarray(picture)
    assert all((edge == 255).all() for edge in (pixels[:5], pixels[-5:], pixels[:, :5], pixels[:, -5:]))
    assert holds(picture, TRAIN)
    assert holds(picture, VAL)
    assert not list(recwarn)


def test_without_an_epoch_there_is_nothing_to_draw():
    with pytest.raises(ValueError, match=r"rows \(=\[\]\) must hold at least one epoch"):
        curves_figure([])


def test_points_are_numbers_that_were_measured():
    rows = [row(0, x="1.5"), row(1, x=""), row(2), row(3, x="nan"), row(4, x="inf"), {"epoch": 5, "x": 0.0}]
    assert curves.points(rows, "x") == ([1, 6], [1.5, 0.0])

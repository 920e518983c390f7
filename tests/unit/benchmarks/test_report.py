"""Tables and plot of the results."""

import numpy as np
import pytest

from benchmarks.plot import draw_benchmarks
from benchmarks.report import format_number, markdown_header, markdown_tables
from benchmarks.results import BenchmarkError, Breakdown, Goal, Result

FAST = Result.of(
    "step", "the loop", "speedup", ours=[10.0] * 3, theirs=[20.0, 25.0, 30.0], goal=Goal(2), note="warm"
)  # fmt: skip
REST = Result.of("rest", "bare", "overhead", ours=[100.0], theirs=[99.5], goal=Goal(1, at_least=False))


def test_tables_have_ratio_quartiles_goal_and_verdict():
    page = markdown_tables([FAST, REST], [Breakdown("a step", [("forward", 30.0), ("log", 10.0)], 40.0)])
    row = "| step (warm) | the loop | 10.0 ms/step (10.0..10.0) | 25.0 ms/step (22.5..27.5) | 2.50x (2.25..2.75) |"
    assert f"{row} >= 2x | met |" in page
    assert "0.500 % | <= 1 % | met, uncertain |" in page
    assert "a step: 40.0 ms" in page
    assert "| forward | 30.0 | 75.0 % |" in page


def test_header_has_command_commit_and_machine():
    machine = {"processor": "A", "cores": 2, "threads": 1, "load_before": 0.25}
    record = {"machine": machine, "commit": "0123456789", "dirty": True, "command": "python x"}
    assert (
        markdown_header(record) == "`python x`, commit 0123456 with changes, A, 2 cores, 1 threads, load 0.2 before.\n"
    )


@pytest.mark.parametrize(("value", "text"), [(1234.5, "1234"), (99.94, "99.9"), (1.0, "1.00"), (0.01234, "0.0123")])
def test_numbers_have_three_significant_digits(value, text):
    assert format_number(value) == text


def test_phase_bars_are_as_long_as_their_shares():
    pixels = np.asarray(draw_benchmarks([], [Breakdown("s", [("a", 30.0), ("b", 10.0), ("hidden", -5.0)], 35.0)]))
    row = pixels[len(pixels) // 3 + 8]  # below the numbers
    lengths = [int((row == [round(255 * grey)] * 3).all(axis=1).sum()) for grey in (0.8, 0.6)]
    assert lengths[0] / lengths[1] == pytest.approx(3, rel=0.05)


def test_plot_shows_median_and_goal():
    pixels = np.asarray(draw_benchmarks([FAST, REST], []))
    point, goal = (np.argwhere((pixels == color).all(axis=2)) for color in ((0, 114, 178), (213, 94, 0)))
    assert point[:, 1].mean() > goal[:, 1].mean()  # 2.5 is right of 2


def test_plot_needs_a_speedup_or_a_breakdown():
    with pytest.raises(BenchmarkError, match="--plot needs a speed-up or a breakdown"):
        draw_benchmarks([REST], [])

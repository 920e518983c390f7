"""Tables and picture: what a reader must find in them."""

import io

import numpy as np
import pytest
from rich.console import Console

from benchmarks.figure import benchmark_figure
from benchmarks.report import figure, markdown, renderable
from benchmarks.results import BenchmarkError, Breakdown, Findings, Goal, share, speedup

RECORDED = {
    "machine": {"processor": "A", "cores": 2, "threads": 1, "load_before": 0.25},
    "commit": "0123456789",
    "dirty": True,
    "command": "python x",
}


@pytest.fixture
def findings():
    fast = speedup("step", "the loop", ours=[10.0, 10.0, 10.0], theirs=[20.0, 25.0, 30.0], goal=Goal(2), note="warm")
    rest = share("rest", "bare", ours=[100.0], theirs=[99.5], goal=Goal(1, at_least=False))
    return Findings([fast, rest], [Breakdown("a step", [("trunk", 30.0), ("log", 10.0)], 40.0)])


def test_a_page_has_ratio_spread_goal_and_verdict(findings):
    page = markdown(findings, RECORDED)
    assert "`python x`, commit 0123456 with changes, A, 2 cores, 1 threads, load 0.2 before." in page
    assert "| step (warm) | the loop | 10.0 (10.0..10.0) ms/step | 25.0 ms/step | 2.50x (2.25..2.75) |" in page
    assert ">= 2x | met |" in page
    assert "0.500 % | <= 1 % | met, uncertain |" in page
    assert "a step: 40.0 ms" in page
    assert "| trunk | 30.0 | 75.0 % |" in page


def test_the_terminal_shows_the_same(findings):
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(renderable(findings))
    text = console.export_text()
    for part in ("against the loop", "2.50x (2.25..2.75)", "met, uncertain", "warm", "a step: 40.0 ms", "75.0 %"):
        assert part in text


@pytest.mark.parametrize(("value", "text"), [(1234.5, "1234"), (99.94, "99.9"), (1.0, "1.00"), (0.01234, "0.0123")])
def test_three_digits_count(value, text):
    assert figure(value) == text


def colored(image, color):
    return np.argwhere((np.asarray(image) == color).all(axis=2))


def test_the_bar_of_a_phase_is_as_long_as_its_share(findings):
    image = benchmark_figure(Findings([], [Breakdown("s", [("a", 30.0), ("b", 10.0), ("hidden", -5.0)], 35.0)]))
    row = np.asarray(image)[np.asarray(image).shape[0] // 3]
    lengths = [int((row == [round(255 * grey)] * 3).all(axis=1).sum()) for grey in (0.8, 0.6)]
    assert lengths[0] / lengths[1] == pytest.approx(3, rel=0.05)


def test_the_picture_has_point_and_goal(findings):
    image = benchmark_figure(findings)
    point, goal = colored(image, (0, 114, 178)), colored(image, (213, 94, 0))
    assert point[:, 1].mean() > goal[:, 1].mean()  # 2.5 lies right of 2


def test_without_ratio_or_breakdown_there_is_no_picture():
    with pytest.raises(BenchmarkError, match="--plot needs a speed-up or a breakdown"):
        benchmark_figure(Findings())

"""Medians, quartiles, ratios and goals against values computed by hand."""

import json

import pytest

from benchmarks.results import Breakdown, Goal, Result, Spread


def test_spread_is_median_and_quartiles():
    spread = Spread.of([10.0, 1.0, 3.0, 2.0, 4.0])
    assert (spread.median, spread.low, spread.high) == (3.0, 2.0, 4.0)
    assert spread.rounds == [10.0, 1.0, 3.0, 2.0, 4.0]  # in their order
    assert Spread.of([7.0]) == Spread([7.0], 7.0, 7.0, 7.0)


@pytest.mark.parametrize(
    ("ratio", "ours", "theirs", "expected", "unit"),
    [
        ("speedup", [10, 20, 30], [30, 40, 90], [3, 2, 3], "x"),  # the ratio of the medians would be 40 / 20
        ("rate speedup", [30, 40, 90], [10, 20, 30], [3, 2, 3], "x"),
        ("multiple", [22, 33], [10, 30], [2.2, 1.1], "times"),
        ("overhead", [100, 50], [97, 50], [3, 0], "%"),
        ("share", [100, 50], [60, 20], [60, 40], "%"),
    ],
)
def test_ratios_are_computed_round_by_round(ratio, ours, theirs, expected, unit):
    result = Result.of("a", "b", ratio, ours=ours, theirs=theirs)
    assert (result.ratio.rounds, result.ratio_unit) == (expected, unit)


@pytest.mark.parametrize(
    ("goal", "met", "certain", "text"),
    [
        (Goal(2.4), True, True, ">= 2.4x"),
        (Goal(2.75), True, False, ">= 2.75x"),  # the lower quartile is 2.5
        (Goal(3.5), False, True, ">= 3.5x"),
        (Goal(3.0, at_least=False), True, True, "<= 3x"),
        (Goal(25, at_least=False, of_ours=True), True, True, "<= 25 ms"),
        (Goal(12, at_least=False, of_ours=True), True, False, "<= 12 ms"),
        (None, None, False, ""),
    ],
)
def test_median_meets_the_goal_and_quartiles_make_it_certain(goal, met, certain, text):
    result = Result.of("a", "b", "speedup", ours=[10, 20, 10], theirs=[30, 40, 30], unit="ms", goal=goal)
    assert (result.met, result.certain, result.goal_text) == (met, certain, text)
    written = json.loads(json.dumps(result.to_json()))
    assert written["ratio"] == {"rounds": [3, 2, 3], "median": 3, "low": 2.5, "high": 3}
    assert written["goal"] == (goal and {**written["goal"], "text": text, "met": met, "certain": certain})
    assert not Result.of("a", "b", "speedup", ours=[1], theirs=[9], goal=goal).certain  # one round is never certain


def test_phases_and_remainder_sum_to_the_step():
    rounds = [{"forward": f, "backward": b} for f, b in ((1.0, 3.0), (2.0, 5.0), (9.0, 4.0))]
    breakdown = Breakdown.of("step", rounds, [10.0, 7.0, 30.0], rest="log")
    assert breakdown == Breakdown("step", [("forward", 2.0), ("backward", 4.0), ("log", 4.0)], 10.0)

"""Medians, quartiles, ratios and goals by hand; what is written can be read again."""

import json

import pytest

from benchmarks.results import (
    BenchmarkError,
    Breakdown,
    Findings,
    Goal,
    Spread,
    goal_text,
    multiple,
    share,
    speedup,
)


def test_a_spread_is_median_and_quartiles():
    spread = Spread.of([10.0, 1.0, 3.0, 2.0, 4.0])
    assert (spread.median, spread.low, spread.high) == (3.0, 2.0, 4.0)
    assert spread.rounds == [10.0, 1.0, 3.0, 2.0, 4.0]  # in their order


def test_of_one_round_there_is_no_spread():
    assert Spread.of([7.0]) == Spread([7.0], 7.0, 7.0, 7.0)
    with pytest.raises(BenchmarkError, match=r"rounds \(=0\) must be at least 1; use --rounds 5"):
        Spread.of([])


def test_a_speedup_is_formed_round_by_round():
    # The ratio of the medians would be 40 / 20.
    times = speedup("a", "b", ours=[10, 20, 30], theirs=[30, 40, 90])
    assert times.ratio.rounds == [3, 2, 3]
    rates = speedup("a", "b", ours=[30, 40, 90], theirs=[10, 20, 30], unit="images/s")
    assert rates.ratio.rounds == [3, 2, 3]


def test_a_multiple_is_the_larger_the_worse():
    result = multiple("a", "b", ours=[22, 33], theirs=[10, 30], unit="MiB", goal=Goal(1.7, at_least=False))
    assert result.ratio.rounds == [2.2, 1.1]
    assert (result.met, goal_text(result)) == (True, "<= 1.7 times")


def test_shares_are_of_our_figure():
    assert share("a", "b", ours=[100, 50], theirs=[97, 50]).ratio.rounds == [3, 0]
    assert share("a", "b", ours=[100, 50], theirs=[60, 20], of_limit=True).ratio.rounds == [60, 40]


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
def test_the_median_meets_a_goal_and_the_quartiles_make_it_certain(goal, met, certain, text):
    result = speedup("a", "b", ours=[10, 20, 10], theirs=[30, 40, 30], unit="ms", goal=goal)
    assert (result.met, result.certain, goal_text(result)) == (met, certain, text)


def test_one_round_is_never_certain():
    result = speedup("a", "b", ours=[1], theirs=[9], goal=Goal(2))
    assert (result.met, result.certain) == (True, False)


def test_phases_and_rest_sum_to_the_step():
    phases = {"forward": [1.0, 2.0, 9.0], "backward": [3.0, 5.0, 4.0]}
    found = Breakdown.of("step", phases, [10.0, 7.0, 30.0], rest="log")
    assert found == Breakdown("step", [("forward", 2.0), ("backward", 4.0), ("log", 4.0)], 10.0)


def test_what_is_written_is_read_again():
    alone = speedup("alone", "", ours=[1.5], theirs=[2.5])
    found = Findings(
        [speedup("a", "b", ours=[1, 2], theirs=[3, 4], goal=Goal(2), note="n"), alone],
        [Breakdown("step", [("forward", 1.25), ("rest", -0.25)], 1.0)],
    )
    written = json.loads(json.dumps(found.to_json()))
    assert Findings.from_json(written) == found
    assert written["results"][0]["goal"]["text"] == ">= 2x"
    assert written["results"][0]["ratio"]["median"] == 2.5
    assert written["results"][1]["goal"] is None

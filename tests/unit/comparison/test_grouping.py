"""Grouping of runs that differ only in their seed, and statistics over seeds."""

import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fcn.comparison.grouping import SeedStatistic, format_setting, group_runs, short_names, varied_keys
from fcn.comparison.run_records import RunRecord
from fcn.runs import Status

METRIC = "val/mean_iou"


def run(value=0.5, *, state="finished", path="x", **config):
    full = {"seed": 0, "lr": 0.1, "name": "x", **{key.replace("__", "."): entry for key, entry in config.items()}}
    return RunRecord(Path(path), full, Status(state), {} if value is None else {METRIC: value, "train/loss": value})


RUNS = st.lists(
    st.builds(
        run,
        st.one_of(st.none(), st.just(math.nan), st.floats(0, 1)),
        state=st.sampled_from(["finished", "failed", "interrupted", "unfinished"]),
        seed=st.integers(0, 3),
        lr=st.sampled_from([0.1, 0.01, 1, 1.0]),
        model__init=st.sampled_from(["bilinear", "xavier"]),
        data__crop_size=st.sampled_from([[64, 64], [64, 96]]),
        name=st.sampled_from(["a", "b"]),
        trainer__devices=st.sampled_from([1, 2]),
        data__num_workers=st.sampled_from([None, 0]),
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=40, deadline=None)
@given(RUNS)
def test_every_finished_run_is_counted_exactly_once(runs):
    groups = group_runs(runs, metric=METRIC)
    assert sorted(id(one) for group in groups for one in group.runs) == sorted(map(id, runs))
    expected = defaultdict(list)
    for one in runs:
        expected[str([float(one.config["lr"]), one.config["model.init"], one.config["data.crop_size"]])].append(one)
    if len(expected) > 1:  # otherwise settings of execution separate runs
        assert {frozenset(map(id, group.runs)) for group in groups} == {
            frozenset(map(id, members)) for members in expected.values()
        }
    for group in groups:
        scores = [one.metrics.get(METRIC, math.nan) for one in group.runs if one.state == "finished"]
        scores = [score for score in scores if not math.isnan(score)]
        statistic = group.statistic(METRIC)
        assert statistic.count == len(scores)
        if scores:
            assert statistic.mean == pytest.approx(np.mean(scores))
        if len(scores) > 1:
            assert statistic.sd == pytest.approx(np.std(scores, ddof=1))


def test_mean_and_sample_deviation_over_seeds():
    runs = [run(value, seed=seed) for seed, value in enumerate((0.3, 0.5, 0.4))]
    (group,) = group_runs(runs, metric=METRIC)
    assert group.statistic(METRIC) == SeedStatistic(pytest.approx(0.4), pytest.approx(0.1), 3)
    assert group.state == "3 finished"
    (single,) = group_runs(runs[:1], metric=METRIC)
    assert single.statistic(METRIC).count == 1
    assert math.isnan(single.statistic(METRIC).sd)
    assert single.state == "finished"


def test_unfinished_runs_are_listed_and_not_averaged():
    runs = [run(0.3, seed=2), run(0.9, seed=1, state="failed"), run(None, seed=10, state="unfinished")]
    (group,) = group_runs(runs, metric=METRIC)
    assert group.statistic(METRIC).mean == 0.3
    assert group.state == "1 of 3 finished (seed 1 failed, seed 10 unfinished)"
    assert [one.config["seed"] for one in group.runs] == [1, 2, 10]


def test_rows_are_sorted_best_first_and_without_score_last():
    runs = [run(None, lr=1.0, state="failed"), run(0.2, lr=2.0), run(0.7, lr=3.0), run(math.nan, lr=4.0)]
    assert [group.label for group in group_runs(runs, metric=METRIC)] == ["lr=3", "lr=2", "lr=1", "lr=4"]
    assert [group.label for group in group_runs(runs, metric="train/loss")] == ["lr=2", "lr=3", "lr=1", "lr=4"]


def test_execution_settings_separate_rows_only_if_no_other_key_does():
    two = [run(trainer__devices=1, seed=0), run(trainer__devices=2, seed=0)]
    assert varied_keys(two) == ["trainer.devices"]
    assert varied_keys([*two, run(lr=1.0, trainer__devices=1)]) == ["lr"]
    assert len(group_runs([*two, run(lr=1.0, trainer__devices=1)], metric=METRIC)) == 2
    precise = [run(trainer__precision="fp32", trainer__devices=1), run(trainer__precision="bf16", trainer__devices=2)]
    assert varied_keys(precise) == ["trainer.precision"]
    assert varied_keys([run(name="a", trainer__log_every=1), run(name="b", trainer__log_every=2)]) == []


def test_ignored_keys_do_not_separate_rows():
    runs = [run(seed=seed, model__init_from=f"outputs/{seed}") for seed in range(3)]
    assert len(group_runs(runs, metric=METRIC)) == 3
    (group,) = group_runs(runs, metric=METRIC, ignore=["model.init_from"])
    assert len(group.runs) == 3


@pytest.mark.parametrize(
    ("paths", "label"), [(("a/0", "a/1"), "a"), (("a/0/x", "a/1/x"), "a"), (("a/0", "/b/1"), "a"), (("a/0",), "a/0")]
)
def test_label_of_the_only_row_is_the_folder_of_its_runs(paths, label):
    (group,) = group_runs([run(path=path) for path in paths], metric=METRIC)
    assert group.label == label


def test_seeds_of_several_runs_are_sorted_among_single_ones():
    runs = [run(seed=seed) for seed in ("2,10", 10, "2,9", 2, 9)]
    (group,) = group_runs(runs, metric=METRIC)
    assert [one.config["seed"] for one in group.runs] == [2, "2,9", "2,10", 9, 10]


def test_missing_key_separates_rows():
    groups = group_runs([run(0.1), run(0.2, model__border="zero")], metric=METRIC)
    assert [group.label for group in groups] == ["border=zero", "border=\N{EN DASH}"]


@pytest.mark.parametrize(
    ("first", "second", "num_rows"),
    [(1, 1.0, 1), ([1, 2], [1.0, 2.0], 1), (1, True, 2), ("1", 1, 2), (None, "null", 2)],
)
def test_equal_settings_of_different_type_are_one_row(first, second, num_rows):
    assert len(group_runs([run(lr=first), run(lr=second)], metric=METRIC)) == num_rows


def test_short_names_are_unambiguous():
    known = ["name", "lr", "seed", "model.name", "model.init", "data.shapes.seed", "backbone.weights", "model.weights"]
    assert short_names([RunRecord(Path(), dict.fromkeys(known), Status.finished, {})]) == {
        "name": "name", "lr": "lr", "seed": "seed", "model.name": "model.name", "model.init": "init",
        "data.shapes.seed": "shapes.seed", "backbone.weights": "backbone.weights", "model.weights": "model.weights",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.001, "0.001"), (1.0, "1"), (1e-10, "1e-10"), (None, "null"), (True, "true"), ("xavier", "xavier"),
        ([320, 480], "[320,480]"), (["a", "b"], "[a,b]"), (..., "\N{EN DASH}"), ("\u00e4", "\u00e4"),
    ],
)  # fmt: skip
def test_values_are_formatted_as_in_overrides(value, text):
    assert format_setting(value) == text

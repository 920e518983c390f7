"""Folding of seeds: every run is in one row, every finished run counts once, and nothing else is averaged."""

import math
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fcn.comparison.run_collection import Run
from fcn.comparison.seed_groups import Statistic, distinct_texts, fold, short_names, show, varied_keys
from fcn.runs import Status

METRIC = "val/mean_iou"


def run(value=0.5, *, state="finished", path="x", **config):
    full = {"seed": 0, "lr": 0.1, "name": "x", **{key.replace("__", "."): entry for key, entry in config.items()}}
    return Run(Path(path), full, Status(state), {} if value is None else {METRIC: value, "train/loss": value})


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
    groups = fold(runs, metric=METRIC)
    assert sorted(id(one) for group in groups for one in group.runs) == sorted(map(id, runs))
    expected = defaultdict(list)
    for one in runs:
        expected[str([float(one.config["lr"]), one.config["model.init"], one.config["data.crop_size"]])].append(one)
    if len(expected) > 1:  # else runs are told apart by how they were executed
        found = {frozenset(map(id, group.runs)) for group in groups}
        assert found == {frozenset(map(id, members)) for members in expected.values()}
    for group in groups:
        scores = [one.metrics.get(METRIC, math.nan) for one in group.runs if one.state == "finished"]
        scores = [score for score in scores if not math.isnan(score)]
        statistic = group.statistic(METRIC)
        assert statistic.count == len(scores)
        if scores:
            assert statistic.mean == pytest.approx(np.mean(scores))
        if len(scores) > 1:
            assert statistic.sd == pytest.approx(np.std(scores, ddof=1))


def test_seeds_are_folded_into_mean_and_sample_deviation():
    runs = [run(value, seed=seed) for seed, value in enumerate((0.3, 0.5, 0.4))]
    (group,) = fold(runs, metric=METRIC)
    assert group.statistic(METRIC) == Statistic(pytest.approx(0.4), pytest.approx(0.1), 3)
    assert group.state == "3 finished"
    (single,) = fold(runs[:1], metric=METRIC)
    assert single.statistic(METRIC).count == 1
    assert math.isnan(single.statistic(METRIC).sd)
    assert single.state == "finished"


def test_runs_that_did_not_finish_are_named_and_not_averaged():
    runs = [run(0.3, seed=2), run(0.9, seed=1, state="failed"), run(None, seed=10, state="unfinished")]
    (group,) = fold(runs, metric=METRIC)
    assert group.statistic(METRIC).mean == 0.3
    assert group.state == "1 of 3 finished (seed 1 failed, seed 10 unfinished)"
    assert [one.config["seed"] for one in group.runs] == [1, 2, 10]


def test_the_best_row_comes_first_and_rows_without_a_score_last():
    runs = [run(None, lr=1.0, state="failed"), run(0.2, lr=2.0), run(0.7, lr=3.0), run(math.nan, lr=4.0)]
    assert [group.label for group in fold(runs, metric=METRIC)] == ["lr=3", "lr=2", "lr=1", "lr=4"]
    assert [group.label for group in fold(runs, metric="train/loss")] == ["lr=2", "lr=3", "lr=1", "lr=4"]


def test_how_a_run_was_executed_tells_rows_apart_only_if_nothing_else_does():
    two = [run(trainer__devices=1, seed=0), run(trainer__devices=2, seed=0)]
    assert varied_keys(two) == ["trainer.devices"]
    assert varied_keys([*two, run(lr=1.0, trainer__devices=1)]) == ["lr"]
    assert len(fold([*two, run(lr=1.0, trainer__devices=1)], metric=METRIC)) == 2
    precise = [run(trainer__precision="fp32", trainer__devices=1), run(trainer__precision="bf16", trainer__devices=2)]
    assert varied_keys(precise) == ["trainer.precision"]
    assert varied_keys([run(name="a", trainer__log_every=1), run(name="b", trainer__log_every=2)]) == []


def test_keys_can_be_ignored():
    runs = [run(seed=seed, model__init_from=f"outputs/{seed}") for seed in range(3)]
    assert len(fold(runs, metric=METRIC)) == 3
    (group,) = fold(runs, metric=METRIC, ignore=["model.init_from"])
    assert len(group.runs) == 3


def test_a_key_that_a_run_lacks_tells_it_apart():
    groups = fold([run(0.1), run(0.2, model__border="zero")], metric=METRIC)
    assert [group.label for group in groups] == ["border=zero", "border=\N{EN DASH}"]


def test_values_are_told_apart_by_what_they_mean():
    assert len(fold([run(lr=1), run(lr=1.0)], metric=METRIC)) == 1
    assert len(fold([run(lr=1), run(lr=True)], metric=METRIC)) == 2
    assert len(fold([run(lr="1"), run(lr=1)], metric=METRIC)) == 2
    assert len(fold([run(lr=None), run(lr="null")], metric=METRIC)) == 2
    assert len(fold([run(lr=[1, 2]), run(lr=[1.0, 2.0])], metric=METRIC)) == 1


def test_names_are_as_short_as_they_are_clear():
    known = ["name", "lr", "seed", "model.name", "model.init", "data.shapes.seed", "backbone.weights", "model.weights"]
    assert short_names(known, known=known) == {
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
def test_values_are_shown_as_they_would_be_typed(value, text):
    assert show(value) == text


def test_long_values_are_shortened_to_what_differs():
    def texts(*values):
        return list(distinct_texts(values).values())

    assert texts(0.1, "short", 0.1) == ["0.1", "short"]
    both = [f"outputs/{'x' * 40}/{name}/2026/checkpoints/best.ckpt" for name in ("fcn8s", "fcn32s")]
    assert texts(*both, None) == ["\N{HORIZONTAL ELLIPSIS}fcn8s\N{HORIZONTAL ELLIPSIS}",
                                  "\N{HORIZONTAL ELLIPSIS}fcn32s\N{HORIZONTAL ELLIPSIS}", "null"]  # fmt: skip
    (alone,) = texts("outputs/" + "x" * 200 + "/best.ckpt")
    assert alone.startswith("outputs/")
    assert alone.endswith("/best.ckpt")
    assert len(alone) == 45


@given(st.lists(st.text(alphabet="ab/,", max_size=120), min_size=1, max_size=5))
def test_values_that_differ_have_texts_that_differ(values):
    texts = distinct_texts(values)
    assert set(texts) == set(values)
    long = [texts[value] for value in texts if len(value) > 44]
    assert len(set(long)) == len(long)
    assert max(map(len, texts.values())) <= 50

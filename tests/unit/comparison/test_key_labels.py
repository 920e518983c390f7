"""Short labels of configuration keys and values."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcn.comparison.key_labels import distinct_texts, format_setting, short_names
from fcn.comparison.run_records import RunRecord
from fcn.runs import Status


def test_short_names_are_unambiguous():
    known = ["name", "lr", "seed", "model.name", "model.init", "data.shapes.seed", "backbone.weights", "model.weights"]
    record = RunRecord(Path(), dict.fromkeys(known), Status.finished, {})
    assert short_names([record]) == {
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


def test_common_parts_of_long_values_are_left_out():
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
def test_different_values_have_different_texts(values):
    texts = distinct_texts(values)
    assert set(texts) == set(values)
    long = [texts[value] for value in texts if len(value) > 44]
    assert len(set(long)) == len(long)
    assert max(map(len, texts.values())) <= 50

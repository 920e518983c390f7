"""Search spaces: suggested values, conditions, and errors of invalid entries."""

import math

import optuna
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

import fcn
from fcn.config import Config, ConfigError
from fcn.config.composition import CONF
from fcn.execution.search_space import Entry, check_composition, parse_space, suggest_values

SPACES = sorted(path.stem for path in (CONF / "search").glob("*.yaml"))


def trials(count: int):
    """Return trials with random values."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return [study.ask() for _ in range(count)]


@st.composite
def ranges(draw):
    """Generate ranges, some of them with log, step or integer."""
    kind = draw(st.sampled_from(["plain", "log", "step", "integer", "integer log", "integer step"]))
    whole = st.integers(1, 1000)
    low, high = sorted((draw(whole), draw(whole)))
    assume(low < high)
    scale = 1 if "integer" in kind else 1000
    step = draw(st.integers(1, high - low))
    entry = {"low": low / scale, "high": high / scale, "integer": "integer" in kind, "log": "log" in kind}
    return entry | ({"step": step / scale} if "step" in kind else {})


@settings(max_examples=30, deadline=None)
@given(ranges())
def test_suggestions_lie_in_the_range(values):
    entry = parse_space({"lr": values})["lr"]
    for trial in trials(3):
        text = entry.suggest(trial, "lr")
        number = float(text)
        assert values["low"] <= number <= values["high"]
        if "step" in values:
            steps = (number - values["low"]) / values["step"]
            assert math.isclose(steps, round(steps), abs_tol=1e-6)
        assert text.isdecimal() or not values["integer"]
        assert entry.suggest(trial, "lr") == text


def test_choices_are_suggested_as_text_of_overrides():
    entry = parse_space({"x": {"choices": ["sgd", 8, 0.5, None, True, [0.5, 2.0], "a b"]}})["x"]
    texts = {entry.suggest(trial, "x") for trial in trials(200)}
    assert texts == {"sgd", "8", "0.5", "null", "true", "[0.5,2.0]", "'a b'"}


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        (3, r"search\.lr \(=3\) must be choices or a range; use"),
        ({"lo": 1}, r"search\.lr: unknown key lo; did you mean low\?"),
        ({"low": "x", "high": 1}, r"search\.lr: low \(=x\) must be a number"),
        ({"low": 1}, r"search\.lr must have choices, or low and high; use"),
        ({}, r"search\.lr must have choices, or low and high; use"),
        (
            {"low": 2, "high": 1},
            r"search\.lr\.low \(=2\) must be below its high \(=1\); exchange them, or use lr=<value>",
        ),
        ({"low": math.nan, "high": 1}, r"search\.lr\.low \(=nan\) must be below its high"),
        ({"low": 1, "high": math.inf}, r"search\.lr: high \(=inf\) must be finite; use a number"),
        ({"low": -math.inf, "high": 1}, r"search\.lr: low \(=-inf\) must be finite; use a number"),
        ({"low": 0, "high": 1, "log": True}, r"search\.lr\.log \(=true\) must have a low above 0 and no step"),
        ({"low": 1, "high": 2, "log": True, "step": 1}, r"must have a low above 0 and no step; use log: false"),
        ({"low": 1, "high": 2, "step": 3}, r"search\.lr\.step \(=3\) must be above 0 and at most high - low"),
        ({"low": 1, "high": 2, "step": 0}, r"search\.lr\.step \(=0\) must be above 0 and at most high - low"),
        ({"low": 1, "high": 2.5, "integer": True}, r"search\.lr\.integer \(=true\) must have whole low, high and step"),
        ({"choices": [1, 2], "low": 1}, r"search\.lr must be either choices or a range; omit low"),
        ({"choices": [1, 2, 1]}, r"search\.lr\.choices .* must be distinct; list each once"),
        ({"choices": [1], "when": {"lr": 1}}, r"search\.lr\.when \(lr=1\) must name a choice of an entry above"),
        ({"choices": [1], "when": {"optim": "adam"}}, r"when \(optim=adam\) .* entry above; optim has sgd, adamw"),
    ],
)
def test_invalid_entry(entry, message):
    with pytest.raises(ConfigError, match=message):
        parse_space({"optim": {"choices": ["sgd", "adamw"]}, "lr": entry})


def test_empty_space():
    with pytest.raises(ConfigError, match=r"search \(=\{\}\) must have an entry; use search=default"):
        parse_space({})


def test_entries_may_be_nested():
    space = parse_space(
        {
            "optim.momentum": {"low": 0, "high": 1},
            "schedule": {"choices": ["poly"], "poly_power": {"low": 1, "high": 2}},
            "optim": {"momentum": {"high": 0.9}, "betas": {"x": {"choices": [1], "when": {"schedule": "poly"}}}},
        }
    )
    assert list(space) == ["optim.momentum", "schedule", "schedule.poly_power", "optim.betas.x"]
    assert space["optim.momentum"] == Entry(low=0, high=0.9)


def test_range_of_the_command_line_replaces_choices():
    """Hydra merges both into one entry."""
    merged = {"optim.momentum": {"choices": [0, 0.9]}, "optim": {"momentum": {"low": 0.5, "high": 0.9}}}
    space = parse_space(merged, ["search.optim.momentum={low: 0.5, high: 0.9}"])
    assert space == {"optim.momentum": Entry(low=0.5, high=0.9)}


def test_range_ends_at_its_last_step():
    assert Entry(low=0.1, high=1.0, step=0.4).ends() == ["0.1", "0.9"]
    assert Entry(low=1, high=8, step=3, integer=True).ends() == ["1", "7"]


def test_conditional_entry_is_suggested_if_its_condition_is_fulfilled():
    space = parse_space(
        {"optim": {"choices": ["sgd", "adamw"]}, "optim.momentum": {"low": 0, "high": 1, "when": {"optim": "sgd"}}}
    )
    suggestions = [suggest_values(trial, space, {}) for trial in trials(30)]
    assert {tuple(one) for one in suggestions} == {("optim", "optim.momentum"), ("optim",)}
    assert all((one["optim"] == "sgd") == ("optim.momentum" in one) for one in suggestions)
    del space["optim"]  # typed for all trials
    assert list(suggest_values(trials(1)[0], space, {"optim": "sgd"})) == ["optim.momentum"]
    assert suggest_values(trials(1)[0], space, {"optim": "adamw"}) == {}


def test_condition_may_name_a_group_with_a_slash_or_a_dot():
    entry = {"low": 0, "high": 1, "when": {"model.init": "xavier"}}
    space = parse_space({"model/init": {"choices": ["bilinear", "xavier"]}, "lr": entry})
    assert {len(suggest_values(trial, space, {})) for trial in trials(30)} == {1, 2}


def test_every_choice_and_both_ends_of_every_range_are_composed():
    space = parse_space({"a": {"choices": [1, 2, 3]}, "b": {"low": 4, "high": 5, "integer": True}})
    seen: list[str] = []
    check_composition(space, lambda overrides: (seen.extend(overrides), Config())[1])
    assert set(seen) == {"a=1", "a=2", "a=3", "b=4", "b=5"}


def test_values_that_are_invalid_only_together_are_accepted():
    def compose(overrides):
        if {"a=1", "b=1"} <= set(overrides) or "c=1" in overrides:
            raise ConfigError("no")
        return Config()

    check_composition(parse_space({"a": {"choices": [1, 2]}, "b": {"choices": [1, 2]}}), compose)
    with pytest.raises(ConfigError, match=r"search\.c \(=1\): no"):
        check_composition(parse_space({"a": {"choices": [1, 2]}, "c": {"choices": [2, 1]}}), compose)


@pytest.mark.parametrize("option", SPACES)
def test_spaces_of_conf_compose(option):
    space = parse_space(OmegaConf.to_container(OmegaConf.load(CONF / "search" / f"{option}.yaml")))
    fixed = ["experiment=d2l"] if option == "d2l" else []
    check_composition(space, lambda overrides: fcn.compose(*fixed, *overrides))

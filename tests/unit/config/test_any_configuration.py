"""Random valid configurations are restored unchanged; random overrides compose or give a one-line error."""

import dataclasses
import math

import pytest
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

import fcn
from fcn import config as configuration
from fcn.config import Config, ConfigError, flatten, options, schema_fields, to_container, validate_run
from fcn.config.choices import Choice
from fcn.config.components import GROUPS, LIST_GROUPS

FIELDS = schema_fields(Config)
TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12)


def values(entry: dataclasses.Field) -> st.SearchStrategy:
    """Return a strategy for the values that the type and range of a key allow."""
    low, high = entry.metadata["low"], entry.metadata["high"]
    annotation = str(entry.type)
    if annotation == "dict[int, str]":
        return st.dictionaries(st.integers(0, 2**16), st.sampled_from(["ignore", "0", "255"]), max_size=2)
    inner = annotation.removesuffix(" | None").replace("list[", "").rstrip("]")
    kinds = {
        "bool": st.booleans(),
        "int": st.integers(-1000 if low is None else int(low), 2**31 if high is None else int(high)),
        "float": st.floats(low, high, allow_nan=False, allow_infinity=False),
        "Any": st.none(),
        "str": TEXTS.filter(lambda text: "$" not in text),
    }
    if annotation == "Any":  # loss.class_weights
        return st.sampled_from([None, "median_frequency"])
    kinds["IntOrAuto"] = st.one_of(st.just("auto"), kinds["int"])
    if inner not in kinds:
        choice = next(each for each in Choice.__subclasses__() if each.__name__ == inner)
        kinds[inner] = st.sampled_from([str(member.value) for member in choice])
    kind = kinds[inner]
    if annotation.startswith("list[list["):
        return st.lists(st.lists(kind, min_size=3, max_size=3), min_size=2, max_size=2)
    if annotation.startswith("list["):
        return st.lists(kind, min_size=2, max_size=2, unique=True)
    return st.one_of(st.none(), kind) if annotation.endswith("| None") else kind


@st.composite
def containers(draw) -> dict:
    """Draw a plain configuration with random options, in which a few keys differ from their defaults."""
    chosen = {group: options(group)[draw(st.sampled_from(sorted(options(group))))]() for group in GROUPS}
    for group in LIST_GROUPS:
        if known := sorted(options(group)):
            names = draw(st.lists(st.sampled_from(known), unique=True, max_size=2))
            chosen[group] = {name: options(group)[name]() for name in names}
    container = to_container(Config(**chosen))
    fields = schema_fields(Config, container)
    keys = [key for key in sorted(fields) if key.rpartition(".")[2] not in ("name", "library")]
    for key in draw(st.lists(st.sampled_from(keys), max_size=5, unique=True)):
        *groups, last = key.split(".")
        section = container
        for group in groups:
            section = section[group]
        section[last] = draw(values(fields[key]))
    return container


# Each example takes a tenth of a second. Most are refused where optional packages, such as wandb, are not installed.
@settings(max_examples=8, suppress_health_check=[HealthCheck.filter_too_much])
@given(container=containers())
def test_valid_configuration_is_restored_from_file_and_container(tmp_path_factory, container):
    try:
        config = validate_run(container)
    except ConfigError:  # contradictory keys
        reject()
    path = tmp_path_factory.getbasetemp() / "config.yaml"
    path.write_text(OmegaConf.to_yaml(OmegaConf.create(to_container(config))), encoding="utf-8")
    assert configuration.read_config(path) == config == validate_run(to_container(config))
    flat = flatten(to_container(config))
    assert [key for key in flat if key not in LIST_GROUPS] == list(schema_fields(Config, container))
    assert all(flat[group] == list(container[group]) for group in LIST_GROUPS)
    assert all(math.isfinite(value) for value in flat.values() if isinstance(value, float))


KEYS = st.one_of(st.sampled_from([*FIELDS, "model", "data", "experiment", "trainer", "hydra.run.dir"]), TEXTS)
SIGNS = st.sampled_from(["=", "=", "=", "", "+", "++", "~", "@", "=[", "={", "='", "=$", "=${"])


@pytest.mark.slow
@settings(max_examples=60)
@given(key=KEYS, sign=SIGNS, value=st.one_of(TEXTS, st.floats().map(str), st.just("null")))
def test_any_override_composes_or_gives_a_one_line_error(key, sign, value):
    override = f"{sign}{key}={value}" if sign in ("+", "++", "~") else f"{key}{sign}{value}"
    message = "composed"
    try:
        fcn.compose(override)
    except ConfigError as error:
        message = str(error)
    assert len(message.splitlines()) == 1

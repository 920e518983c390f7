"""What a run may change when it goes on."""

import pytest

from fcn.config import ConfigError, changes, check_changes


def test_only_what_changes_a_number_is_a_change():
    before = {"lr": 0.1, "data.root": "a", "trainer.log_every": 10, "epochs": 3, "gone": 1}
    after = {"lr": 0.2, "data.root": "b", "trainer.log_every": 1, "epochs": 3, "new": 2}
    assert changes(before, after) == {"lr": [0.1, 0.2]}


@pytest.mark.parametrize("key", ["batch_size", "data.crop_size", "model.init", "backbone.name", "optim.name"])
def test_another_run_is_refused_even_if_allowed(key):
    with pytest.raises(ConfigError, match=rf"{key} \(=2\) was 1 in x so far, and must stay; begin a new run"):
        check_changes({key: [1, 2]}, allowed=[key], run="x")


def test_what_changes_the_bits_must_be_named():
    found = {"lr": [0.1, 0.2], "seed": [0, 1]}
    with pytest.raises(ConfigError, match=r"lr \(=0.2\) was 0.1 in x so far; .* add allow=\[lr\]"):
        check_changes(found, allowed=["seed"], run="x")
    with pytest.raises(ConfigError, match=r"lr .* was 0.1, seed .* was 0 in x so far; .* add allow=\[lr,seed\]"):
        check_changes(found, allowed=[], run="x")
    with pytest.raises(ConfigError, match=r"allow \(=lrr\) must name keys or groups; did you mean lr\?"):
        check_changes({}, allowed=["lrr"], run="x")
    check_changes(found, allowed=["seed", "lr"], run="x")
    check_changes({"schedule.name": ["cosine", "poly"]}, allowed=["schedule"], run="x")
    check_changes({"data.on_device": [True, False]}, allowed=["data"], run="x")
    check_changes({}, allowed=[], run="x")

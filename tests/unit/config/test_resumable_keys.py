"""Keys that may change when a run is resumed."""

import pytest

from fcn.config import ConfigError, flatten, to_container
from fcn.config.composition import compose
from fcn.config.resumable_keys import changed_keys, check_resumable


def test_changed_keys_leave_out_neutral_and_unknown_keys():
    before = {"lr": 0.1, "data.root": "a", "trainer.log_every": 10, "epochs": 3, "removed": 1}
    after = {"lr": 0.2, "data.root": "b", "trainer.log_every": 1, "epochs": 3, "new": 2}
    assert changed_keys(before, after) == {"lr": [0.1, 0.2]}


def test_callbacks_without_effect_on_the_result_may_change():
    chosen = (
        compose("callbacks=[lr_monitor,ema]", "callbacks.lr_monitor.log_momentum=true"),
        compose("callbacks=[ema,lr_monitor,model_summary]"),
        compose("callbacks=[early_stopping,model_summary]"),
    )
    before, neutral, other = (flatten(to_container(each)) for each in chosen)
    assert changed_keys(before, neutral) == {}
    assert changed_keys(before, other) == {"callbacks": [["ema"], ["early_stopping"]]}


@pytest.mark.parametrize("key", ["batch_size", "data.crop_size", "model.init", "backbone.name", "optim.name"])
def test_fixed_key_cannot_change_even_if_allowed(key):
    with pytest.raises(ConfigError, match=rf"{key} \(=2\) must stay 1 in x; start a new run"):
        check_resumable({key: [1, 2]}, allowed=[key], run="x")


def test_other_changed_keys_must_be_allowed():
    changes = {"lr": [0.1, 0.2], "seed": [0, 1]}
    with pytest.raises(ConfigError, match=r"lr \(=0.2\) was 0.1 in x; .* add 'allow=\[lr\]'"):
        check_resumable(changes, allowed=["seed"], run="x")
    with pytest.raises(ConfigError, match=r"lr .* was 0.1, seed .* was 0 in x; .* add 'allow=\[lr,seed\]'"):
        check_resumable(changes, allowed=[], run="x")
    with pytest.raises(ConfigError, match=r"allow \(=lrr\) must name keys or groups; did you mean lr\?"):
        check_resumable({}, allowed=["lrr"], run="x")
    check_resumable(changes, allowed=["seed", "lr"], run="x")
    check_resumable({"schedule.name": ["cosine", "poly"]}, allowed=["schedule"], run="x")
    check_resumable({"data.on_device": [True, False]}, allowed=["data"], run="x")
    check_resumable({}, allowed=[], run="x")

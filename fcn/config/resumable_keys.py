"""Keys that may change when a run is resumed."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from fcn.config.components import options
from fcn.config.option_bases import CallbackConfig
from fcn.config.schema import Config
from fcn.config.schema_keys import schema_fields
from fcn.errors import ConfigError, nearest

NEUTRAL = (
    "name", "execute", "resume", "autoresume", "rerun", "allow", "data.root", "data.extra_roots", "data.download",
    "data.num_workers", "data.cache", "data.cache_dir", "trainer.log_every", "trainer.sample_images",
    "trainer.checkpoint_steps", "trainer.checkpoint_minutes", "trainer.timeout_minutes", "trainer.devices",
    "trainer.max_minutes", "trainer.log_seconds", "trainer.profiler", "trainer.detect_anomaly",
    "trainer.activation_checkpointing", "logger",
)  # fmt: skip
"""Keys and groups without effect on the result. The number of processes has one, but its actual value is compared."""

FIXED = (
    "batch_size",
    "data",
    "transforms",
    "model",
    "backbone",
    "optim.name",
    "optim.decay_all",
    "optim.bias_lr_multiplier",
)
"""Keys and groups that determine the images of a step or the weights; changing them requires a new run."""

MOVABLE = ("data.on_device", "backbone.lr_multiplier")
"""Keys of the fixed groups that `allow` may name; data.on_device changes pixels only by rounding in colour jitter."""

Changes = dict[str, list[Any]]


def changed_keys(before: Mapping[str, Any], after: Mapping[str, Any]) -> Changes:
    """Return the keys with different values in two flat configurations, except neutral ones, with both values.

    A key that only one of them has is left out: it belongs to an option that the other has not chosen.
    """
    before, after = _without_neutral(before), _without_neutral(after)
    return {key: [value, after[key]] for key, value in before.items() if key in after and value != after[key]}


def _without_neutral(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys that have an effect on the result, and of the list `callbacks` such callbacks."""
    kinds = options("callbacks").items()
    callbacks = [name for name, kind in kinds if issubclass(kind, CallbackConfig) and not kind.changes_result]
    neutral = [*NEUTRAL, *(f"callbacks.{name}" for name in callbacks)]
    kept = {key: value for key, value in values.items() if not _is_in(key, neutral)}
    if "callbacks" in kept:
        kept["callbacks"] = [name for name in kept["callbacks"] if name not in callbacks]
    return kept


def check_resumable(changes: Changes, *, allowed: Collection[str], run: str) -> None:
    """Check that a run can be resumed with changed keys; its result is then no longer bit-identical.

    Args:
        changes: the return value of `changed_keys`.
        allowed: keys or groups named by `allow`.
        run: name of the run for messages.

    Raises:
        ConfigError: naming the first key that must not change, or all that `allow` must name.
    """
    known = {*schema_fields(Config), *(entry.name for entry in dataclasses.fields(Config))}
    for name in allowed:
        if name not in known and not any(key.startswith(f"{name}.") for key in known):
            raise ConfigError(f"allow (={name}) must name keys or groups{nearest(name, known)}")
    for key, (old, new) in changes.items():
        if _is_in(key, FIXED) and key not in MOVABLE:
            raise ConfigError(
                f"{key} (={new}) must stay {old} in {run}; start a new run, with model.init_from=... for the weights "
                "of this one"
            )
    if missing := [key for key in changes if not _is_in(key, allowed)]:
        changed = ", ".join(f"{key} (={changes[key][1]}) was {changes[key][0]}" for key in missing)
        remedy = f"to resume with a result that is no longer bit-identical, add 'allow=[{','.join(missing)}]'"
        raise ConfigError(f"{changed} in {run}; {remedy}")


def _is_in(key: str, names: Iterable[str]) -> bool:
    """Whether `names` holds the key or one of its groups."""
    return any(key == name or key.startswith(f"{name}.") for name in names)

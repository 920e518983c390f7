"""What may change in a configuration between two executions of a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fcn.config.rules import ConfigError

NEUTRAL = (
    "name", "execute", "resume", "rerun", "allow", "data.root", "data.download", "data.num_workers", "data.cache",
    "data.cache_dir", "trainer.log_every", "trainer.sample_images", "trainer.checkpoint_steps",
    "trainer.checkpoint_minutes",
)  # fmt: skip
"""Keys that never change a weight or a score."""

FIXED = ("batch_size", "data", "model", "backbone", "optim.name")
"""Keys and groups that decide which images a step has, or which weights there are: another run."""

Changes = dict[str, list[Any]]


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> Changes:
    """Keys whose value matters and differs, with both values, from flat configurations.

    A key that only one of them knows is left out: the other is of another version, and meant its default.
    """
    return {
        key: [value, after[key]]
        for key, value in before.items()
        if key in after and key not in NEUTRAL and value != after[key]
    }


def check_changes(found: Changes, *, allowed: Iterable[str], run: str) -> None:
    """Check that a run may go on with changes, whose bits are not those of the run left alone.

    Args:
        found: from `changes`.
        allowed: keys or groups named by `allow`.
        run: what to call the run.

    Raises:
        ConfigError: naming the first change that may not be, or must be allowed by name.
    """
    for key, (old, new) in found.items():
        change = f"{key} (={new}) was {old} when {run} began"
        if _is_in(key, FIXED):
            raise ConfigError(f"{change}, and must stay; begin a new run, with model.init_from={run} from its weights")
        if not _is_in(key, allowed):
            raise ConfigError(f"{change}; to go on with other bits than the run left alone, add allow=[{key}]")


def _is_in(key: str, names: Iterable[str]) -> bool:
    """Whether the key or a group that it is in has one of the names."""
    return any(key == name or key.startswith(f"{name}.") for name in names)

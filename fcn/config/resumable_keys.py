"""What may change in a configuration between two executions of a run."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from fcn.config.messages import nearest
from fcn.config.rules import ConfigError
from fcn.config.schema import Config, schema_fields

NEUTRAL = (
    "name", "execute", "resume", "rerun", "allow", "data.root", "data.download", "data.num_workers", "data.cache",
    "data.cache_dir", "trainer.log_every", "trainer.sample_images", "trainer.checkpoint_steps",
    "trainer.checkpoint_minutes", "trainer.timeout_minutes", "trainer.devices",
)  # fmt: skip
"""Keys that never change a weight or a score. The number of processes does: it is compared as it is, not as typed."""

FIXED = ("batch_size", "data", "model", "backbone", "optim.name", "optim.decay_all", "optim.bias_lr_multiplier")
"""Keys and groups that decide which images a step has, or which weights and groups of them there are: another run."""

MOVABLE = ("data.on_device",)
"""What of the fixed groups may change by name: it gives the same pixels up to the rounding of colour jitter."""

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


def check_changes(found: Changes, *, allowed: Collection[str], run: str) -> None:
    """Check that a run may go on with changes, whose bits are not those of the run left alone.

    Args:
        found: from `changes`.
        allowed: keys or groups named by `allow`.
        run: what to call the run.

    Raises:
        ConfigError: naming the first change that may not be, or all that must be allowed by name.
    """
    known = {*schema_fields(Config), *(key.partition(".")[0] for key in schema_fields(Config))}
    for name in allowed:
        if name not in known and not any(key.startswith(f"{name}.") for key in known):
            raise ConfigError(f"allow (={name}) must name keys or groups{nearest(name, known)}")
    for key, (old, new) in found.items():
        if _is_in(key, FIXED) and key not in MOVABLE:
            raise ConfigError(
                f"{key} (={new}) was {old} in {run} so far, and must stay; begin a new run, with model.init_from=... "
                "from the weights of this one"
            )
    if missing := [key for key in found if not _is_in(key, allowed)]:
        changed = ", ".join(f"{key} (={found[key][1]}) was {found[key][0]}" for key in missing)
        remedy = f"to go on with other bits than the run left alone, add allow=[{','.join(missing)}]"
        raise ConfigError(f"{changed} in {run} so far; {remedy}")


def _is_in(key: str, names: Iterable[str]) -> bool:
    """Whether the key or a group that it is in has one of the names."""
    return any(key == name or key.startswith(f"{name}.") for name in names)

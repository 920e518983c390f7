"""Text of overrides, such as `model.init=xavier`, as given on the command line and saved with a run.

Imports Hydra only in `parse_overrides`, so that the processes of a run need no Hydra.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override


LENGTHS: dict[str, dict[str, int | None]] = {
    "epochs": {"epochs": None, "trainer.val_every": 1},
    "steps": {"steps": None, "trainer.val_every_steps": None},
}
"""The keys that give the length of a run, each with itself and its validation interval as they are if it is unset."""


def parse_overrides(overrides: Sequence[str]) -> list[Override]:
    """Parse overrides with Hydra's grammar, which knows sweeps, dicts and quoted values."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    return OverridesParser.create().parse_overrides(list(overrides))


def split_override(override: str) -> tuple[str, str]:
    """Return key and value of an override as text, without Hydra's leading `+`, `++` or `~`.

    >>> split_override("++model/init@model=xavier")
    ('model.init', 'xavier')
    """
    key, _, value = override.lstrip("+~").partition("=")
    return dotted_key(key.partition("@")[0].strip()), value


def values_by_key(overrides: Sequence[str]) -> dict[str, str]:
    """Map the key or group of every override to its value as text; the last override of a key counts."""
    return dict(map(split_override, overrides))


def replaced_lengths(overrides: Sequence[str]) -> dict[str, int | None]:
    """Return the keys that an override of `epochs` or of `steps` replaces, with their values: those of the other one.

    >>> replaced_lengths(["steps=100", "trainer.val_every=1"])
    {'epochs': None}
    """
    values = values_by_key(overrides)
    given = {key for key in LENGTHS if values.get(key, "null") != "null"}
    if len(given) != 1:
        return {}
    (other,) = LENGTHS.keys() - given
    return {key: value for key, value in LENGTHS[other].items() if key not in values}


def choose_length(config: DictConfig, overrides: Sequence[str]) -> None:
    """Let an override of `epochs` replace `steps` and its validation interval, set by a preset, and conversely."""
    for key, value in replaced_lengths(overrides).items():
        if "epochs" in config:
            OmegaConf.update(config, key, value)


def without_keys(overrides: Sequence[str], *keys: str) -> list[str]:
    """Return the overrides of all other keys."""
    return [override for override in overrides if split_override(override)[0] not in keys]


def dotted_key(key: str) -> str:
    """Return one name for a group and for the key of the same meaning, such as model/init and model.init."""
    return key.replace("/", ".")


def for_shell(key: str, value: Any) -> str:
    """Return an override as it is typed in a shell, for messages.

    >>> print(for_shell("resume", "outputs/my runs"))
    "resume='outputs/my runs'"
    """
    return shell_quoted(f"{key}={format_value(value)}")


def shell_quoted(override: str) -> str:
    """Quote an override for a shell if that is necessary."""
    quoted = shlex.quote(override)
    return quoted if quoted == override or re.search(r'["$`\\!]', override) else f'"{override}"'


def format_value(value: Any) -> str:
    """Format a value as text after `key=`, quoted where Hydra's grammar requires it.

    >>> format_value([0.5, True, None, "a b"])
    "[0.5,true,null,'a b']"
    """
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(format_value, value))}]"
    text = str(value)
    if re.fullmatch(r"[\w./+-]+", text, re.ASCII):
        return text
    quoted = re.sub(r"(\\+)(?='|$)", r"\1\1", text).replace("'", r"\'")
    return f"'{quoted}'"

"""Search spaces, as in conf/search: their entries, checks, and the values of a trial as text of overrides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from fcn.config import Config, ConfigError, setting, validate
from fcn.config.overrides import dotted_key, format_value, parse_overrides

if TYPE_CHECKING:
    from optuna.trial import BaseTrial


@dataclass(kw_only=True, slots=True)
class Entry:
    """Values of one key or group of a run: one of `choices`, or a number from `low` to `high`."""

    choices: list[Any] = setting([], "values of the key, or options of the group")
    low: float | None = setting(None, "smallest number")
    high: float | None = setting(None, "largest number")
    log: bool = setting(False, "whether orders of magnitude are equally likely")
    step: float | None = setting(None, "distance between the numbers, counted from low")
    integer: bool = setting(False, "whether the numbers are whole")
    when: dict[str, Any] = setting({}, "an entry above and its choice; with other choices this key keeps its default")

    def ends(self) -> list[str]:
        """Return every choice, or the smallest and the largest number, as text of an override."""
        return [format_value(value) for value in self.choices or (self._number(self.low), self._number(self.largest()))]

    def largest(self) -> float:
        """Return `high`, or the last step below it."""
        assert self.low is not None
        assert self.high is not None
        if self.step is None:
            return self.high
        low, high, step = (Decimal(str(value)) for value in (self.low, self.high, self.step))
        return float(low + (high - low) // step * step)

    def applies(self, values: Mapping[str, Any]) -> bool:
        """Whether these values of other keys, as Python values or as text, fulfil `when`."""
        return all(values.get(dotted_key(key)) in (value, format_value(value)) for key, value in self.when.items())

    def suggest(self, trial: BaseTrial, key: str) -> str:
        """Return the value of a trial as text of an override; the same value if the trial has one already."""
        if self.choices:
            return trial.suggest_categorical(key, self.ends())
        assert self.low is not None
        low, high = self.low, self.largest()
        if self.integer:
            return str(trial.suggest_int(key, int(low), int(high), step=int(self.step or 1), log=self.log))
        return repr(trial.suggest_float(key, low, high, step=self.step, log=self.log))

    def rounded(self, text: str) -> str:
        """Round a value for display and for directory names."""
        return text if self.choices else f"{float(text):.3g}"

    def _number(self, value: float | None) -> float | int | None:
        return int(value) if self.integer and value is not None else value


FIELDS = {field.name for field in fields(Entry)}
RANGE = FIELDS - {"choices", "when"}


def parse_space(search: Mapping[str, Any], overrides: Sequence[str] = ()) -> dict[str, Entry]:
    """Return the entries of a search space by key.

    Args:
        search: entries by key, possibly nested: Hydra turns search.optim.momentum=... into {optim: {momentum: ...}}.
        overrides: overrides of the command line; a range replaces the choices of an entry, and choices replace a range.

    Raises:
        ConfigError: if an entry is invalid.
    """
    space: dict[str, Entry] = {}
    for key, value in _resolve_mixed(_entries_by_key(search), overrides).items():
        if not isinstance(value, Mapping):
            raise ConfigError(
                f"search.{key} (={value}) must be choices or a range; use {{choices: [a,b]}} or {{low: 0.1, high: 1}}"
            )
        try:
            space[key] = validate(value, Entry)
        except ConfigError as error:
            raise ConfigError(f"search.{key}: {error}") from error
        _check_entry(f"search.{key}", space[key])
        _check_when(f"search.{key}", space)
    if not space:
        raise ConfigError("search (={}) must have an entry; use search=default")
    return space


def _entries_by_key(search: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return entries by dotted key; a later entry of the same key updates the earlier one."""
    entries: dict[str, Any] = {}
    for key, value in search.items():
        name, mapping = f"{prefix}{key}", dict(value) if isinstance(value, Mapping) else {}
        nested = {inner: each for inner, each in mapping.items() if inner not in FIELDS and isinstance(each, Mapping)}
        own = {inner: each for inner, each in mapping.items() if inner not in nested}
        if own or not nested:
            entries[name] = {**(entries.get(name) or {}), **own} if isinstance(value, Mapping) else value
        for inner, each in _entries_by_key(nested, f"{name}.").items():
            entries[inner] = {**(entries.get(inner) or {}), **each}
    return entries


def _resolve_mixed(entries: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Replace entries with both choices and a range, which Hydra has merged, by those of the command line."""
    parsed = [each for each in parse_overrides(overrides) if isinstance(each.value(), dict) and not each.is_delete()]
    overridden = {
        key.removeprefix("search."): entry
        for key, entry in _entries_by_key({str(each.key_or_group): each.value() for each in parsed}).items()
        if not _is_mixed(entry)
    }
    return {key: overridden.get(key, entry) if _is_mixed(entry) else entry for key, entry in entries.items()}


def _is_mixed(entry: Any) -> bool:
    return isinstance(entry, Mapping) and "choices" in entry and bool(RANGE & set(entry))


def suggest_values(trial: BaseTrial, space: Mapping[str, Entry], fixed: Mapping[str, Any]) -> dict[str, str]:
    """Return a trial's value, as text of an override, for every entry whose condition is fulfilled.

    Args:
        trial: trial of an Optuna study.
        space: entries by key.
        fixed: values of other keys, which conditions may refer to.
    """
    texts: dict[str, str] = {}
    for key, entry in space.items():
        if entry.applies({**fixed, **{dotted_key(other): text for other, text in texts.items()}}):
            texts[key] = entry.suggest(trial, key)
    return texts


def _check_entry(name: str, entry: Entry) -> None:
    low, high, step = entry.low, entry.high, entry.step
    if entry.choices:
        if (low, high, step, entry.log, entry.integer) != (None, None, None, False, False):
            raise ConfigError(f"{name} must be either choices or a range; omit low, high, log, step and integer")
        texts = [format_value(choice) for choice in entry.choices]
        if len(set(texts)) < len(texts):
            raise ConfigError(f"{name}.choices (={texts}) must be distinct; list each once")
        return
    if low is None or high is None:
        raise ConfigError(f"{name} must have choices, or low and high; use {{low: 0.1, high: 1}}")
    if not low < high:
        raise ConfigError(
            f"{name}.low (={low:g}) must be below its high (={high:g}); exchange them, or use {name[7:]}=<value>"
        )
    if entry.log and (low <= 0 or step is not None):
        raise ConfigError(f"{name}.log (=true) must have a low above 0 and no step; use log: false")
    # high - low is rounded: 0.235 - 0.232 is below 0.003.
    if step is not None and not 0 < step <= (high - low) * (1 + 1e-9):
        raise ConfigError(f"{name}.step (={step:g}) must be above 0 and at most high - low; use step: null")
    if entry.integer and any(value is not None and value != int(value) for value in (low, high, step)):
        raise ConfigError(f"{name}.integer (=true) must have whole low, high and step; use integer: false")


def _check_when(name: str, space: Mapping[str, Entry]) -> None:
    *above, (_, entry) = space.items()
    choices = {dotted_key(key): [format_value(choice) for choice in other.choices] for key, other in above}
    for key, value in entry.when.items():
        allowed = choices.get(dotted_key(key), [])
        if format_value(value) not in allowed:
            known = f"; {key} has {', '.join(allowed)}" if allowed else ""
            raise ConfigError(f"{name}.when ({key}={value}) must name a choice of an entry above{known}")


def check_composition(space: Mapping[str, Entry], compose: Callable[[Sequence[str]], Config]) -> list[Config]:
    """Compose all choices and both ends of all ranges, in as few configurations as possible, and return these.

    Combinations of values that are invalid only together are not detected; their trials fail.

    Raises:
        ConfigError: if a key does not exist, or a value alone is invalid.
    """
    ends = {key: entry.ends() for key, entry in space.items()}
    configs = []
    for number in range(max(len(texts) for texts in ends.values())):
        values = {key: texts[number % len(texts)] for key, texts in ends.items()}
        try:
            configs.append(compose([f"{key}={text}" for key, text in values.items()]))
        except ConfigError:
            configs += [_compose_value(key, text, space[key], compose) for key, text in values.items()]
    return configs


def _compose_value(key: str, text: str, entry: Entry, compose: Callable[[Sequence[str]], Config]) -> Config:
    conditions = [f"{other}={format_value(value)}" for other, value in entry.when.items()]
    try:
        return compose([*conditions, f"{key}={text}"])
    except ConfigError as error:
        raise ConfigError(f"search.{key} (={text}): {error}") from error

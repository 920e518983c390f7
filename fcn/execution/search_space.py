"""Search spaces: what conf/search holds, checked, and how its values are typed as overrides."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from fcn.config import Choice, Config, ConfigError, setting, typed
from fcn.config.overrides import dotted_key, format_value, parse_overrides

if TYPE_CHECKING:
    from optuna.trial import BaseTrial


class PrunerName(Choice):
    median = "median"
    hyperband = "hyperband"
    none = "none"


@dataclass(kw_only=True, slots=True)
class Entry:
    """What one key or group of a run may be: one of `choices`, or a number from `low` to `high`."""

    choices: list[Any] = setting([], "values of the key, or options of the group")
    low: float | None = setting(None, "smallest number")
    high: float | None = setting(None, "largest number")
    log: bool = setting(False, "whether orders of magnitude are equally likely")
    step: float | None = setting(None, "distance of the numbers from one another, counted from low")
    integer: bool = setting(False, "whether the numbers are whole")
    when: dict[str, Any] = setting({}, "entry above: its choice with which this key is searched over, else left alone")

    def ends(self) -> list[str]:
        """Every choice, or the smallest and the largest number, as they are typed."""
        return [format_value(value) for value in self.choices or (self._number(self.low), self._number(self.largest()))]

    def largest(self) -> float:
        """`high`, or the last step below it."""
        assert self.low is not None
        assert self.high is not None
        if self.step is None:
            return self.high
        low, high, step = (Decimal(str(value)) for value in (self.low, self.high, self.step))
        return float(low + (high - low) // step * step)

    def applies(self, values: Mapping[str, Any]) -> bool:
        """Whether these values of other keys, as they are or as they are typed, fulfil `when`."""
        return all(values.get(dotted_key(key)) in (value, format_value(value)) for key, value in self.when.items())

    def suggest(self, trial: BaseTrial, key: str) -> str:
        """A trial's value as it is typed; the one that it has already, if it has."""
        if self.choices:
            return trial.suggest_categorical(key, self.ends())
        assert self.low is not None
        low, high = self.low, self.largest()
        if self.integer:
            return str(trial.suggest_int(key, int(low), int(high), step=int(self.step or 1), log=self.log))
        return repr(trial.suggest_float(key, low, high, step=self.step, log=self.log))

    def rounded(self, text: str) -> str:
        """A value for people, and for names of directories."""
        return text if self.choices else f"{float(text):.3g}"

    def _number(self, value: float | None) -> float | int | None:
        return int(value) if self.integer and value is not None else value


FIELDS = {field.name for field in fields(Entry)}
RANGE = FIELDS - {"choices", "when"}


def parse(search: Mapping[str, Any], overrides: Sequence[str] = ()) -> dict[str, Entry]:
    """The entries of a search space by the keys that they are about.

    Args:
        search: entries by key, which may be nested: Hydra makes {optim: {momentum: ...}} of search.optim.momentum=...
        overrides: that were typed; a range in place of choices replaces them, and choices a range.

    Raises:
        ConfigError: naming entry, rule and remedy of the first one that is wrong.
    """
    space: dict[str, Entry] = {}
    for key, value in _of_the_kind_typed(_by_key(search), overrides).items():
        if not isinstance(value, Mapping):
            raise ConfigError(
                f"search.{key} (={value}) must be choices or a range; use {{choices: [a,b]}} or {{low: 0.1, high: 1}}"
            )
        try:
            space[key] = typed(OmegaConf.create(dict(value)), Entry)
        except ConfigError as error:
            raise ConfigError(f"search.{key}: {error}") from error
        _check_entry(f"search.{key}", space[key])
        _check_when(f"search.{key}", space)
    if not space:
        raise ConfigError("search (={}) must have an entry; use search=default")
    return space


def _by_key(search: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Entries by dotted key; those of the same key are one, in which what comes later counts."""
    found: dict[str, Any] = {}
    for key, value in search.items():
        name, mapping = f"{prefix}{key}", dict(value) if isinstance(value, Mapping) else {}
        below = {inner: one for inner, one in mapping.items() if inner not in FIELDS and isinstance(one, Mapping)}
        own = {inner: one for inner, one in mapping.items() if inner not in below}
        if own or not below:
            found[name] = {**(found.get(name) or {}), **own} if isinstance(value, Mapping) else value
        for inner, one in _by_key(below, f"{name}.").items():
            found[inner] = {**(found.get(inner) or {}), **one}
    return found


def _of_the_kind_typed(entries: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Hydra merges what is typed into what is there, which makes both choices and a range of two kinds."""
    given = [one for one in parse_overrides(overrides) if isinstance(one.value(), dict)]
    typed_ = _by_key({str(one.key_or_group): one.value() for one in given if not one.is_delete()})
    typed_ = {key.removeprefix("search."): entry for key, entry in typed_.items() if not _is_mixed(entry)}
    return {key: typed_.get(key, entry) if _is_mixed(entry) else entry for key, entry in entries.items()}


def _is_mixed(entry: Any) -> bool:
    return isinstance(entry, Mapping) and "choices" in entry and bool(RANGE & set(entry))


def suggest(trial: BaseTrial, space: Mapping[str, Entry], fixed: Mapping[str, Any]) -> dict[str, str]:
    """A trial's value of every entry that applies, as it is typed.

    Args:
        trial: of an Optuna study.
        space: entries by key.
        fixed: values of other keys, on which entries may depend.
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
            raise ConfigError(f"{name} must be either choices or a range; leave out low, high, log, step and integer")
        texts = [format_value(choice) for choice in entry.choices]
        if len(set(texts)) < len(texts):
            raise ConfigError(f"{name}.choices (={texts}) must differ from one another; name each once")
        return
    if low is None or high is None:
        raise ConfigError(f"{name} must have choices, or low and high; use {{low: 0.1, high: 1}}")
    if not low < high:
        raise ConfigError(f"{name}.low (={low:g}) must be below its high (={high:g}); exchange them, or fix {name[7:]}")
    if entry.log and (low <= 0 or step is not None):
        raise ConfigError(f"{name}.log (=true) must have a low above 0 and no step; use log: false")
    if step is not None and not 0 < step <= high - low:
        raise ConfigError(f"{name}.step (={step:g}) must be above 0 and at most high - low; use step: null")
    if entry.integer and any(value is not None and value != int(value) for value in (low, high, step)):
        raise ConfigError(f"{name}.integer (=true) must have whole low, high and step; use integer: false")


def _check_when(name: str, space: Mapping[str, Entry]) -> None:
    *_, entry = space.values()
    above = {dotted_key(key): other for key, other in space.items() if other is not entry}
    for key, value in entry.when.items():
        choices = (
            [format_value(choice) for choice in above[dotted_key(key)].choices] if dotted_key(key) in above else []
        )
        if format_value(value) not in choices:
            known = f"; {key} has {', '.join(choices)}" if choices else ""
            raise ConfigError(f"{name}.when ({key}={value}) must name a choice of an entry above{known}")


def probe(space: Mapping[str, Entry], compose: Callable[[Sequence[str]], Config]) -> list[Config]:
    """Compose all choices and both ends of all ranges, in as few configurations as that takes.

    Raises:
        ConfigError: if a key does not exist, or a value is wrong by itself. That some do not go together is found by
            the trials that have them.
    """
    ends = {key: entry.ends() for key, entry in space.items()}
    configs = []
    for number in range(max(len(texts) for texts in ends.values())):
        values = {key: texts[number % len(texts)] for key, texts in ends.items()}
        try:
            configs.append(compose([f"{key}={text}" for key, text in values.items()]))
        except ConfigError:
            configs += [_alone(key, text, space[key], compose) for key, text in values.items()]
    return configs


def _alone(key: str, text: str, entry: Entry, compose: Callable[[Sequence[str]], Config]) -> Config:
    conditions = [f"{other}={format_value(value)}" for other, value in entry.when.items()]
    try:
        return compose([*conditions, f"{key}={text}"])
    except ConfigError as error:
        raise ConfigError(f"search.{key} (={text}): {error}") from error

"""Which keys tell runs apart, and which runs differ by their seed alone."""

from __future__ import annotations

import itertools
import json
import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fcn.comparison.run_collection import Run

UNCOUNTED = frozenset(
    {"seed", "name", "resume", "rerun", "data.download", "trainer.log_every", "trainer.sample_images"}
)
"""Keys that never tell groups of runs apart."""

ABSENT = "\N{EN DASH}"
"""Stands for a key that a run's configuration does not have, and for a number that does not exist."""

_LONG, _DOTS = 44, "\N{HORIZONTAL ELLIPSIS}"


@dataclass(frozen=True)
class Statistic:
    """Of a metric over the finished runs of a group that have it.

    Attributes:
        mean: NaN without a run.
        sd: sample standard deviation (n - 1 in the divisor); NaN for fewer than two runs.
        count: number of runs.
    """

    mean: float
    sd: float
    count: int


@dataclass(frozen=True)
class Group:
    """Runs that are equal in everything that counts but the seed: a row of the table.

    Attributes:
        number: of the row, from 1.
        values: of the keys that differ between the groups.
        texts: the same as short texts, which differ where the values do.
        runs: by seed.
        label: what tells it from the others, in a few words.
    """

    number: int
    values: Mapping[str, Any]
    texts: Mapping[str, str]
    runs: Sequence[Run]
    label: str

    @property
    def finished(self) -> list[Run]:
        return [run for run in self.runs if run.finished]

    @property
    def state(self) -> str:
        """`finished`, `3 finished`, or how many are and what became of the others."""
        others = [f"seed {run.config['seed']} {run.state}" for run in self.runs if not run.finished]
        if len(self.runs) == 1:
            return self.runs[0].state
        if not others:
            return f"{len(self.runs)} finished"
        return f"{len(self.finished)} of {len(self.runs)} finished ({', '.join(others)})"

    def statistic(self, metric: str) -> Statistic:
        """Of a name in `Run.metrics`; runs that did not finish are left out."""
        values = [run.metrics.get(metric, math.nan) for run in self.finished]
        known = [value for value in values if math.isfinite(value)]
        sd = statistics.stdev(known) if len(known) > 1 else math.nan
        return Statistic(statistics.fmean(known) if known else math.nan, sd, len(known))


def fold(runs: Sequence[Run], *, metric: str, ignore: Iterable[str] = ()) -> list[Group]:
    """Groups of runs that differ by seed and bookkeeping alone, best first by the mean of `metric`.

    Where and how a run was executed (`trainer.*` without precision, the number of workers) tells runs apart only
    if nothing else does. Groups without a finished run come last. Of a loss, the lowest is the best.

    Args:
        runs: to be folded, each into one group.
        metric: a name in `Run.metrics`.
        ignore: more keys that shall not count.
    """
    keys = varied_keys(runs, ignore=ignore)
    folded: dict[str, list[Run]] = {}
    for run in runs:
        folded.setdefault(_text([run.config.get(key, ...) for key in keys]), []).append(run)
    names = all_names(runs)
    texts = {key: distinct_texts([run.config.get(key, ...) for run in runs]) for key in keys}
    groups = []
    for members in folded.values():
        first = members[0].config
        values = {key: first.get(key, ...) for key in keys}
        shown = {key: texts[key][show(value)] for key, value in values.items()}
        label = " ".join(f"{names[key]}={text}" for key, text in shown.items())
        groups.append(Group(0, values, shown, sorted(members, key=_seed), label or _common(members)))
    ranked = sorted(groups, key=lambda group: _rank(group, metric))
    return [replace(group, number=number) for number, group in enumerate(ranked, start=1)]


def varied_keys(runs: Sequence[Run], *, ignore: Iterable[str] = ()) -> list[str]:
    """Keys of the configuration that tell the runs apart, in its order; see `fold`."""
    differing = [key for key in different_keys([run.config for run in runs]) if key not in UNCOUNTED | set(ignore)]
    return [key for key in differing if not _of_execution(key)] or differing


def different_keys(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys that have not the same value in all configurations."""
    keys = dict.fromkeys(key for config in configs for key in config)
    return [key for key in keys if len({_text(config.get(key, ...)) for config in configs}) > 1]


def short_names(keys: Sequence[str], *, known: Iterable[str]) -> dict[str, str]:
    """The end of each key by which no other known key is meant: `init` for model.init, but `model.name`."""
    parts = [key.split(".") for key in known]
    names = {}
    for key in keys:
        own = key.split(".")
        lengths = range(1, len(own) + 1)
        names[key] = next(
            (
                ".".join(own[-length:])
                for length in lengths
                if sum(other[-length:] == own[-length:] for other in parts) == 1
            ),
            key,
        )
    return names


def all_names(runs: Sequence[Run]) -> dict[str, str]:
    """Every key of the runs with its short name."""
    keys = list(dict.fromkeys(key for run in runs for key in run.config))
    return short_names(keys, known=keys)


def show(value: Any) -> str:
    """A value as it would be typed."""
    if value is ...:
        return ABSENT
    return value if isinstance(value, str) else _text(value).replace('"', "").replace(", ", ",")


def distinct_texts(values: Sequence[Any]) -> dict[str, str]:
    """Short texts for values that differ, by their full ones: of long ones, what all begin or end with is left out.

    Paths and lists are cut between their parts.
    """
    full = list(dict.fromkeys(map(show, values)))
    long = [text for text in full if len(text) > _LONG]
    if not long:
        return dict(zip(full, full, strict=True))
    parts = [re.split(r"(?<=[/,])", text) for text in long]
    before = _num_common(parts)
    after = _num_common([one[before:][::-1] for one in parts])
    short = {}
    for text, one in zip(long, parts, strict=True):
        middle = "".join(one[before : len(one) - after]).rstrip("/")
        short[text] = shortened(f"{_DOTS * bool(before)}{middle}{_DOTS * bool(after)}")
    if len(set(short.values())) < len(short):  # they differ in the middle of a long part
        short = {text: f"{shortened(text)} ({number})" for number, text in enumerate(long, start=1)}
    return {text: short.get(text, text) for text in full}


def _num_common(parts: Sequence[Sequence[str]]) -> int:
    """With how many equal parts all of several lists begin; 0 for one list."""
    equal = itertools.takewhile(lambda column: len(set(column)) == 1, zip(*parts, strict=False))
    return len(list(equal)) if len(parts) > 1 else 0


def shortened(text: str) -> str:
    """The text, the middle of a long one left out."""
    return text if len(text) <= _LONG else f"{text[: _LONG // 2]}{_DOTS}{text[len(text) - _LONG // 2 :]}"


def title(group: Group) -> str:
    """Row number and label, as pictures name a group."""
    return f"{group.number}: {group.label}"


def _of_execution(key: str) -> bool:
    return key == "data.num_workers" or (key.startswith("trainer.") and key != "trainer.precision")


def _text(value: Any) -> str:
    """One text for one value; 1 and 1.0 are the same setting, 1 and true are not."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    if isinstance(value, list):
        return f"[{', '.join(map(_text, value))}]"
    return json.dumps(value, default=lambda other: f"\0{other!r}", ensure_ascii=False)


def _seed(run: Run) -> tuple[bool, Any, str]:
    seed = run.config["seed"]
    return not isinstance(seed, int), seed if isinstance(seed, int) else str(seed), str(run.path)


def _common(members: Sequence[Run]) -> str:
    """A name for the only group there is."""
    return str(members[0].path if len(members) == 1 else members[0].path.parent)


def _rank(group: Group, metric: str) -> tuple[bool, float, str]:
    mean = group.statistic(metric).mean
    if math.isnan(mean):
        return True, 0.0, group.label
    return False, mean if metric.rpartition("/")[2].endswith("loss") else -mean, group.label

"""Groups runs that differ only in their seed or fold into rows, and averages metrics over them."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fcn.comparison.run_records import RunRecord

DASH = "\N{EN DASH}"

IGNORED_KEYS = frozenset(
    {"seed", "name", "resume", "autoresume", "rerun", "data.download", "trainer.log_every", "trainer.sample_images"}
)
"""Keys that never separate groups of runs."""
EACH_FOLD = "each"
"""Value of data.fold in a row of runs with folds."""


@dataclass(frozen=True)
class SeedStatistic:
    """Statistic of a metric over the finished runs of a group.

    Attributes:
        mean: NaN without a run.
        sd: sample standard deviation (n - 1 in the divisor); NaN for fewer than two runs.
        count: number of runs that have the metric.
    """

    mean: float
    sd: float
    count: int


@dataclass(frozen=True)
class RunGroup:
    """Runs that differ only in their seed or fold: a row of the table.

    Attributes:
        number: number of the row, from 1.
        values: values of the keys that differ between the groups; `...` for a missing key.
        runs: runs sorted by seed and fold.
        label: short description that distinguishes the group from the others.
    """

    number: int
    values: Mapping[str, Any]
    runs: Sequence[RunRecord]
    label: str

    @property
    def title(self) -> str:
        """Row number and label, the name of the group in figures."""
        return f"{self.number}: {self.label}"

    @property
    def finished(self) -> list[RunRecord]:
        return [run for run in self.runs if run.finished]

    @property
    def state(self) -> str:
        """`finished`, `3 finished`, or the number of finished runs and the states of the others."""
        others = [f"{_name_of_run(run)} {run.state}" for run in self.runs if not run.finished]
        if len(self.runs) == 1:
            return self.runs[0].state
        if not others:
            return f"{len(self.runs)} finished"
        return f"{len(self.finished)} of {len(self.runs)} finished ({', '.join(others)})"

    def statistic(self, metric: str) -> SeedStatistic:
        """Return the statistic of a metric in `RunRecord.metrics` over the finished runs."""
        values = [run.metrics.get(metric, math.nan) for run in self.finished]
        known = [value for value in values if math.isfinite(value)]
        sd = statistics.stdev(known) if len(known) > 1 else math.nan
        return SeedStatistic(statistics.fmean(known) if known else math.nan, sd, len(known))


def group_runs(runs: Sequence[RunRecord], *, metric: str, ignore: Iterable[str] = ()) -> list[RunGroup]:
    """Group runs that differ only in seed, fold and bookkeeping, sorted by the mean of `metric`, best first.

    Settings of execution (`trainer.*` except precision, number of loader workers) separate groups only if no other key
    does. Groups without a finished run come last. A lower loss is better.

    Args:
        runs: each becomes part of one group.
        metric: a name in `RunRecord.metrics`.
        ignore: further keys that must not separate groups.
    """
    keys, names = varied_keys(runs, ignore=ignore), short_names(runs)
    members: dict[str, list[RunRecord]] = {}
    for run in runs:
        members.setdefault(identity_text([_setting(run, key) for key in keys]), []).append(run)
    groups = []
    for group in members.values():
        values = {key: _setting(group[0], key) for key in keys}
        label = " ".join(f"{names[key]}={format_setting(value)}" for key, value in values.items())
        path = group[0].path if len(group) == 1 else _common_folder(group)  # label of the only group
        ordered = sorted(group, key=lambda run: (seed_order(run.config["seed"]), run.fold or (), str(run.path)))
        groups.append(RunGroup(0, values, ordered, label or str(path)))
    groups.sort(key=lambda group: _rank(group, metric))
    return [replace(group, number=number) for number, group in enumerate(groups, start=1)]


def _common_folder(group: Sequence[RunRecord]) -> Path:
    """Return the folder that holds all runs of a group; that of the first one if some paths are relative."""
    first, *others = (run.path for run in group)
    return next((path for path in first.parents if all(path in one.parents for one in others)), first.parent)


def seed_order(seed: Any) -> tuple[str, ...]:
    """Return the place of a seed, or of the text `0,1` of an evaluation of several runs, among others."""
    return tuple(part.rjust(20) for part in str(seed).split(","))  # as numbers: 9 before 10


def _name_of_run(run: RunRecord) -> str:
    seed = f"seed {run.config['seed']}"
    return f"{seed} fold {run.fold[0]}" if run.fold else seed


def _setting(run: RunRecord, key: str) -> Any:
    """Return the value that separates a run from those of other rows; folds are not separated."""
    value = run.config.get(key, ...)
    return EACH_FOLD if key == "data.fold" and run.fold else value


def _rank(group: RunGroup, metric: str) -> tuple[bool, float, str]:
    mean = group.statistic(metric).mean
    if math.isnan(mean):
        return True, 0.0, group.label
    return False, mean if metric.endswith("loss") else -mean, group.label


def varied_keys(runs: Sequence[RunRecord], *, ignore: Iterable[str] = ()) -> list[str]:
    """Return the keys that separate runs into groups, in the order of the configuration; see `group_runs`."""
    ignored = IGNORED_KEYS | set(ignore)
    configs = [{key: _setting(run, key) for key in run.config} for run in runs]
    keys = [key for key in differing_keys(configs) if key not in ignored]
    return [key for key in keys if not _concerns_execution(key)] or keys


def is_bookkeeping(key: str) -> bool:
    """Return whether a key has no effect on scores: runs that differ in it and in other keys can be in one row."""
    return key in IGNORED_KEYS or _concerns_execution(key)


def _concerns_execution(key: str) -> bool:
    return key == "data.num_workers" or (key.startswith("trainer.") and key != "trainer.precision")


def differing_keys(configs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the keys whose values differ between configurations."""
    keys = dict.fromkeys(key for config in configs for key in config)
    return [key for key in keys if len({identity_text(config.get(key, ...)) for config in configs}) > 1]


def short_names(records: Sequence[RunRecord]) -> dict[str, str]:
    """Return every key of the runs with its shortest unambiguous suffix: `init` for model.init, but `model.name`."""
    parts = {key: key.split(".") for record in records for key in record.config}
    ends = {key: [".".join(own[-length:]) for length in range(1, len(own) + 1)] for key, own in parts.items()}
    counts = Counter(end for own in ends.values() for end in own)
    return {key: next((end for end in own if counts[end] == 1), key) for key, own in ends.items()}


def identity_text(value: Any) -> str:
    """Return a text that is equal for equal settings: 1 and 1.0 are the same, 1 and true are not."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    if isinstance(value, list):
        return f"[{', '.join(map(identity_text, value))}]"
    return json.dumps(value, default=lambda other: f"\0{other!r}", ensure_ascii=False)


def format_setting(value: Any) -> str:
    """Return a value as written in an override; a dash for a missing key."""
    if value is ...:
        return DASH
    return value if isinstance(value, str) else identity_text(value).replace('"', "").replace(", ", ",")

"""Groups runs that differ only in their seed into rows, and averages metrics over them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from fcn.comparison import key_labels
from fcn.comparison.run_records import RunRecord

IGNORED_KEYS = frozenset(
    {"seed", "name", "resume", "rerun", "data.download", "trainer.log_every", "trainer.sample_images"}
)
"""Keys that never separate groups of runs."""


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
    """Runs that differ only in their seed: a row of the table.

    Attributes:
        number: number of the row, from 1.
        values: values of the keys that differ between the groups.
        texts: the same as short texts, distinct where the values are.
        runs: runs sorted by seed.
        label: short description that distinguishes the group from the others.
    """

    number: int
    values: Mapping[str, Any]
    texts: Mapping[str, str]
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
        others = [f"seed {run.config['seed']} {run.state}" for run in self.runs if not run.finished]
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
    """Group runs that differ only in seed and bookkeeping, sorted by the mean of `metric`, best first.

    Settings of execution (`trainer.*` except precision, number of loader workers) separate groups only if no other key
    does. Groups without a finished run come last. A lower loss is better.

    Args:
        runs: each becomes part of one group.
        metric: a name in `RunRecord.metrics`.
        ignore: further keys that must not separate groups.
    """
    keys = varied_keys(runs, ignore=ignore)
    members: dict[str, list[RunRecord]] = {}
    for run in runs:
        members.setdefault(key_labels.identity_text([run.config.get(key, ...) for key in keys]), []).append(run)
    names = key_labels.short_names(runs)
    texts = {key: key_labels.distinct_texts([run.config.get(key, ...) for run in runs]) for key in keys}
    groups = []
    for group in members.values():
        values = {key: group[0].config.get(key, ...) for key in keys}
        own_texts = {key: texts[key][key_labels.format_setting(value)] for key, value in values.items()}
        label = " ".join(f"{names[key]}={text}" for key, text in own_texts.items())
        groups.append(RunGroup(0, values, own_texts, sorted(group, key=_seed_order), label or _common_path(group)))
    groups.sort(key=lambda group: _rank(group, metric))
    return [replace(group, number=number) for number, group in enumerate(groups, start=1)]


def varied_keys(runs: Sequence[RunRecord], *, ignore: Iterable[str] = ()) -> list[str]:
    """Return the keys that separate runs into groups, in the order of the configuration; see `group_runs`."""
    ignored = IGNORED_KEYS | set(ignore)
    keys = [key for key in key_labels.differing_keys([run.config for run in runs]) if key not in ignored]
    return [key for key in keys if not _concerns_execution(key)] or keys


def _concerns_execution(key: str) -> bool:
    return key == "data.num_workers" or (key.startswith("trainer.") and key != "trainer.precision")


def _seed_order(run: RunRecord) -> tuple[bool, Any, str]:
    seed = run.config["seed"]
    return not isinstance(seed, int), seed if isinstance(seed, int) else str(seed), str(run.path)


def _common_path(runs: Sequence[RunRecord]) -> str:
    """Return a label for the only group."""
    return str(runs[0].path if len(runs) == 1 else runs[0].path.parent)


def _rank(group: RunGroup, metric: str) -> tuple[bool, float, str]:
    mean = group.statistic(metric).mean
    if math.isnan(mean):
        return True, 0.0, group.label
    return False, mean if metric.rpartition("/")[2].endswith("loss") else -mean, group.label

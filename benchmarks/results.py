"""What was measured: medians with their spread, ratios to a reference, goals, and the parts of a step.

Imports no torch.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from fcn.errors import UserError


class BenchmarkError(UserError):
    """Something cannot be measured, or not here."""


@dataclass(frozen=True)
class Spread:
    """Values of the rounds with their median and quartiles, which a disturbance of one round in five does not move."""

    rounds: list[float]
    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of one value per round.

        Raises:
            BenchmarkError: if there is none.
        """
        if not values:
            raise BenchmarkError("rounds (=0) must be at least 1; use --rounds 5")
        if len(values) == 1:
            return cls(list(values), *list(values) * 3)
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(list(values), median, low, high)


@dataclass(frozen=True)
class Goal:
    """A bound that the median of the ratio shall keep, or that of our own figure.

    Attributes:
        bound: in the unit of what it bounds.
        at_least: whether it is a lower bound; else an upper one.
        of_ours: whether it bounds our own figure instead of the ratio.
    """

    bound: float
    at_least: bool = True
    of_ours: bool = False

    def met_by(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound


@dataclass(frozen=True)
class Result:
    """One figure of ours beside that of a reference.

    Attributes:
        name: what was measured.
        reference: what it is compared with; empty without one.
        unit: of `ours` and `theirs`.
        ours: a value per round.
        theirs: likewise, of the reference; None without one.
        ratio: what `ratio_unit` says, formed round by round; None without reference.
        ratio_unit: `x`: times as fast as the reference; `times`: as long or as large; `%`: share of our figure.
        goal: None where nothing was promised, or the settings are not those of the promise.
        note: what a reader has to know.
    """

    name: str
    reference: str
    unit: str
    ours: Spread
    theirs: Spread | None = None
    ratio: Spread | None = None
    ratio_unit: str = "x"
    goal: Goal | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the median meets the goal; None without one."""
        judged = self._judged
        return None if judged is None or self.goal is None else self.goal.met_by(judged.median)

    @property
    def certain(self) -> bool:
        """Whether both quartiles say the same of the goal as the median, in more than one round."""
        judged = self._judged
        if judged is None or self.goal is None:
            return False
        return len(judged.rounds) > 1 and self.goal.met_by(judged.low) is self.goal.met_by(judged.high)

    @property
    def _judged(self) -> Spread | None:
        return self.ours if self.goal and self.goal.of_ours else self.ratio

    def to_json(self) -> dict[str, Any]:
        verdict = {"text": goal_text(self), "met": self.met, "certain": self.certain}
        goal = None if self.goal is None else {**asdict(self.goal), **verdict}
        return {**asdict(self), "goal": goal}

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Result:
        """What `to_json` was called on."""
        spreads = {key: found[key] and Spread(**found[key]) for key in ("ours", "theirs", "ratio")}
        goal = found["goal"] and Goal(**{key: found["goal"][key] for key in ("bound", "at_least", "of_ours")})
        return cls(**{**found, **spreads, "goal": goal})


def goal_text(result: Result) -> str:
    """The bound for people: `>= 2.5x`, `<= 3 %`, `<= 1.5 s`; empty without one."""
    if result.goal is None:
        return ""
    unit = result.unit if result.goal.of_ours else result.ratio_unit
    return f"{'>=' if result.goal.at_least else '<='} {result.goal.bound:g}{'' if unit == 'x' else ' '}{unit}"


def speedup(
    name: str,
    reference: str,
    *,
    ours: Sequence[float],
    theirs: Sequence[float],
    unit: str = "ms/step",
    goal: Goal | None = None,
    note: str = "",
) -> Result:
    """How many times as fast as the reference: of times theirs/ours, of rates (a unit `.../s`) ours/theirs."""
    rate = unit.endswith("/s")
    pairs = list(zip(ours, theirs, strict=True))
    ratio = [our / their if rate else their / our for our, their in pairs]
    return Result(name, reference, unit, Spread.of(ours), Spread.of(theirs), Spread.of(ratio), goal=goal, note=note)


def multiple(
    name: str,
    reference: str,
    *,
    ours: Sequence[float],
    theirs: Sequence[float],
    unit: str,
    goal: Goal | None = None,
    note: str = "",
) -> Result:
    """How many times as long or as large as the reference; less is better."""
    times = [our / their for our, their in zip(ours, theirs, strict=True)]
    spreads = (Spread.of(ours), Spread.of(theirs), Spread.of(times))
    return Result(name, reference, unit, *spreads, ratio_unit="times", goal=goal, note=note)


def share(
    name: str,
    reference: str,
    *,
    ours: Sequence[float],
    theirs: Sequence[float],
    unit: str = "ms/step",
    goal: Goal | None = None,
    of_limit: bool = False,
    note: str = "",
) -> Result:
    """What our time has beyond the reference's, per cent of ours; with `of_limit`, the reference's own share of it."""
    percent = [100 * (their if of_limit else our - their) / our for our, their in zip(ours, theirs, strict=True)]
    spreads = (Spread.of(ours), Spread.of(theirs), Spread.of(percent))
    return Result(name, reference, unit, *spreads, ratio_unit="%", goal=goal, note=note)


@dataclass(frozen=True)
class Breakdown:
    """Where the time of a step goes: milliseconds by phase, in order, which sum to the step.

    Attributes:
        name: what was measured.
        phases: name and milliseconds, medians over the rounds. The last one is what the phases do not explain: below
            zero where they, with a wait for the device after each, take longer than the step, in which they overlap.
        step_ms: the whole step, median over the rounds.
    """

    name: str
    phases: list[tuple[str, float]]
    step_ms: float

    @classmethod
    def of(cls, name: str, phases: dict[str, list[float]], step_ms: Sequence[float], *, rest: str) -> Breakdown:
        """Of values per round; `rest` names what is left of the step."""
        step = Spread.of(step_ms).median
        medians = [(phase, Spread.of(values).median) for phase, values in phases.items()]
        return cls(name, [*medians, (rest, step - sum(value for _, value in medians))], step)


@dataclass(frozen=True)
class Findings:
    """Everything that benchmarks found, in order."""

    results: list[Result] = field(default_factory=list)
    breakdowns: list[Breakdown] = field(default_factory=list)

    def add(self, other: Findings) -> None:
        self.results.extend(other.results)
        self.breakdowns.extend(other.breakdowns)

    def to_json(self) -> dict[str, Any]:
        return {
            "results": [result.to_json() for result in self.results],
            "breakdown": [asdict(breakdown) for breakdown in self.breakdowns],
        }

    @classmethod
    def from_json(cls, found: dict[str, Any]) -> Findings:
        """What `to_json` was called on."""
        breakdowns = [
            Breakdown(one["name"], [(phase, value) for phase, value in one["phases"]], one["step_ms"])
            for one in found["breakdown"]
        ]
        return cls([Result.from_json(one) for one in found["results"]], breakdowns)

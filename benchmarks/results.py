"""Measured values: spread over the rounds, ratios to a reference, goals, and the phases of a step. Imports no torch."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fcn.errors import UserError

RATIOS: Mapping[str, tuple[str, Callable[[float, float], float]]] = {
    "speedup": ("x", lambda ours, theirs: theirs / ours),  # of times
    "rate speedup": ("x", lambda ours, theirs: ours / theirs),
    "multiple": ("times", lambda ours, theirs: ours / theirs),  # lower is better
    "overhead": ("%", lambda ours, theirs: 100 * (ours - theirs) / ours),
    "share": ("%", lambda ours, theirs: 100 * theirs / ours),
}
"""Unit and formula of a ratio of our value and the reference's, by name."""


class BenchmarkError(UserError):
    """Raised if a benchmark cannot run with these options or on this machine."""


@dataclass(frozen=True)
class Spread:
    """Values of the rounds with median and quartiles, which are insensitive to one outlier in five rounds."""

    rounds: Sequence[float]
    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Compute median and quartiles; a single value is all three."""
        low, median, high = statistics.quantiles(list(values) * (2 if len(values) == 1 else 1), method="inclusive")
        return cls(list(values), median, low, high)


@dataclass(frozen=True)
class Goal:
    """Bound for the median of the ratio or, with `of_ours`, of our own value."""

    bound: float
    at_least: bool = True
    of_ours: bool = False

    def met_by(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound


@dataclass(frozen=True)
class Result:
    """One of our values, with that of a reference if there is one.

    Attributes:
        name: the measured quantity.
        reference: description of the reference; empty without one.
        unit: unit of `ours` and `theirs`.
        ratio: ratio of both, computed round by round, in `ratio_unit`.
        goal: None if there is no goal for this value or these settings.
        note: remark for the reader.
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

    @classmethod
    def of(
        cls, name: str, reference: str, ratio: str, *, ours: Sequence[float], theirs: Sequence[float], **fields: Any
    ) -> Result:
        """Compare the values of all rounds by one of `RATIOS`; `fields` are further fields, such as unit and goal."""
        ratio_unit, formula = RATIOS[ratio]
        return cls(
            name,
            reference,
            ours=Spread.of(ours),
            theirs=Spread.of(theirs),
            ratio=Spread.of([formula(our, their) for our, their in zip(ours, theirs, strict=True)]),
            ratio_unit=ratio_unit,
            **{"unit": "ms/step", **fields},
        )

    @property
    def met(self) -> bool | None:
        """Whether the median meets the goal; None without a goal."""
        return None if self.goal is None else self.goal.met_by(self._judged.median)

    @property
    def certain(self) -> bool:
        """Whether both quartiles agree with the median about the goal, in more than one round."""
        if self.goal is None or len(self._judged.rounds) == 1:
            return False
        return self.goal.met_by(self._judged.low) is self.goal.met_by(self._judged.high)

    @property
    def _judged(self) -> Spread:
        return self.ours if self.ratio is None or (self.goal and self.goal.of_ours) else self.ratio

    @property
    def goal_text(self) -> str:
        """The goal as text, such as `>= 2.5x` or `<= 1.5 s`; empty without a goal."""
        if self.goal is None:
            return ""
        unit = self.unit if self.goal.of_ours else self.ratio_unit
        return f"{'>=' if self.goal.at_least else '<='} {self.goal.bound:g}{'' if unit == 'x' else ' '}{unit}"

    def to_json(self) -> dict[str, Any]:
        verdict = {"text": self.goal_text, "met": self.met, "certain": self.certain}
        return {**asdict(self), "goal": self.goal and {**asdict(self.goal), **verdict}}


@dataclass(frozen=True)
class Breakdown:
    """Milliseconds of the phases of a step, medians over the rounds; their sum is `step_ms`.

    The last phase is the remainder: it is negative if the phases, with a device synchronisation after each, take longer
    than the step.
    """

    name: str
    phases: list[tuple[str, float]]
    step_ms: float

    @classmethod
    def of(cls, name: str, rounds: Sequence[Mapping[str, float]], step_ms: Sequence[float], *, rest: str) -> Breakdown:
        """Compute medians from the phases of every round; `rest` names the remainder of the step."""
        step = statistics.median(step_ms)
        medians = [(phase, statistics.median(one[phase] for one in rounds)) for phase in rounds[0]]
        return cls(name, [*medians, (rest, step - sum(value for _, value in medians))], step)

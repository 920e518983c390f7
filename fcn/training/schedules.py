"""Options of the group `schedule`: factors of the learning rate at every step."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from fcn.config import Config, ConfigError, ScheduleConfig, component, setting
from fcn.config.choices import Anneal

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LambdaLR


DEFAULT_SHARE = 0.1
"""Share of the warm-up in all steps of a run."""


@dataclass(kw_only=True)
class WarmupSchedule(ScheduleConfig):
    """Linear warm-up from 1 / warmup_steps at step 0 to 1 at its last step, and then `factor_at`."""

    warmup_steps: int | None = setting(None, "number of linear warm-up steps; null: warmup_share of all steps", low=0)
    warmup_share: float = setting(
        DEFAULT_SHARE, "share of all steps, rounded down, if warmup_steps is null", low=0, high=0.99
    )

    def check(self, config: Config) -> None:
        if self.warmup_steps is not None and self.warmup_share != DEFAULT_SHARE:
            raise ConfigError(
                f"schedule.warmup_share (={self.warmup_share:g}) must be {DEFAULT_SHARE} with schedule.warmup_steps "
                f"(={self.warmup_steps}), which replaces it; use schedule.warmup_share={DEFAULT_SHARE}, or "
                "schedule.warmup_steps=null"
            )

    def factor(self, step: int, total_steps: int) -> float:
        warmup = self._length(total_steps)
        if step < warmup:
            return (step + 1) / warmup
        return self.factor_at(min(1.0, (step - warmup) / (total_steps - warmup)))

    def _length(self, total_steps: int) -> int:
        return int(self.warmup_share * total_steps) if self.warmup_steps is None else self.warmup_steps

    def longer_warmup(self, total_steps: int) -> str | None:
        """Return the override of a warm-up of twice the length: at least 100 steps or a tenth, at most half the run."""
        if self.warmup_steps is None and self.warmup_share != DEFAULT_SHARE:
            share = min(0.5, max(DEFAULT_SHARE, 2 * self.warmup_share))
            return f"schedule.warmup_share={share:g}" if share > self.warmup_share else None
        current = self._length(total_steps)
        steps = min(max(100, 2 * current), total_steps // 2)
        return f"schedule.warmup_steps={steps}" if steps > current else None

    @abstractmethod
    def factor_at(self, t: float) -> float:
        """Return the factor after the warm-up, at a share t of the remaining steps, from 0 to 1."""


@component("schedule", "constant")
class ConstantSchedule(WarmupSchedule):
    """A constant learning rate."""

    warmup_steps: int | None = setting(0, "number of linear warm-up steps; null: warmup_share of all steps", low=0)

    def factor_at(self, t: float) -> float:
        return 1.0


@component("schedule", "poly")
class PolySchedule(WarmupSchedule):
    """final_factor + (1 - final_factor) (1 - t)^power, t from 0 to 1 (DeepLab, Chen et al. 2017)."""

    power: float = setting(0.9, "exponent of the factor", low=0)
    final_factor: float = setting(0.0, "factor at the end of the run", low=0, high=1)

    def factor_at(self, t: float) -> float:
        return float(self.final_factor + (1 - self.final_factor) * (1 - t) ** self.power)


@component("schedule", "cosine")
class CosineSchedule(WarmupSchedule):
    """(1 + cos(pi t)) / 2, t from 0 to 1 (Loshchilov & Hutter 2017)."""

    def factor_at(self, t: float) -> float:
        return 0.5 * (1 + math.cos(math.pi * t))


@component("schedule", "exponential")
class ExponentialSchedule(WarmupSchedule):
    """final_factor^t, t from 0 to 1: the same relative decay at every step."""

    final_factor: float = setting(0.01, "factor at the end of the run", low=1e-9, high=1)

    def factor_at(self, t: float) -> float:
        return float(self.final_factor**t)


@component("schedule", "step")
class StepSchedule(WarmupSchedule):
    """A constant learning rate that is multiplied by gamma at every milestone."""

    milestones: list[float] = setting([0.6, 0.9], "shares of the run after which the rate drops", low=0, high=1)
    gamma: float = setting(0.1, "factor at a milestone", low=1e-9, high=1)
    warmup_steps: int | None = setting(0, "number of linear warm-up steps; null: warmup_share of all steps", low=0)

    def check(self, config: Config) -> None:
        super().check(config)
        if not self.milestones or sorted(set(self.milestones)) != self.milestones:
            raise ConfigError(f"schedule.milestones (={self.milestones}) must be ascending shares; use [0.6,0.9]")

    def factor(self, step: int, total_steps: int) -> float:
        passed = sum(step >= round(share * total_steps) for share in self.milestones)
        return super().factor(step, total_steps) * self.gamma**passed

    def factor_at(self, t: float) -> float:
        return 1.0


@component("schedule", "onecycle")
class OneCycleSchedule(ScheduleConfig):
    """One cycle (Smith & Topin 2018): up to the peak, then down to almost zero, as in torch's OneCycleLR.

    The momentum stays constant.
    """

    warmup_share: float = setting(0.3, "share of the run in which the rate rises to its peak", low=0, high=1)
    start_divisor: float = setting(25.0, "the first rate is the peak divided by this", low=1)
    end_divisor: float = setting(1e4, "the last rate is the first one divided by this", low=1)
    anneal: Anneal = setting(Anneal.cosine, "shape of the rise and the fall: cosine or linear")

    def factor(self, step: int, total_steps: int) -> float:
        start, end = 1 / self.start_divisor, 1 / (self.start_divisor * self.end_divisor)
        peak, last = self.warmup_share * total_steps - 1, total_steps - 1
        if step <= peak:
            return self._between(start, 1.0, step / peak if peak else 1.0)
        return self._between(1.0, end, min(1.0, (step - peak) / (last - peak) if last > peak else 1.0))

    def _between(self, start: float, end: float, t: float) -> float:
        if self.anneal is Anneal.cosine:
            t = (1 - math.cos(math.pi * t)) / 2
        return start + (end - start) * t


def build_schedule(optimizer: Optimizer, config: ScheduleConfig, *, total_steps: int) -> LambdaLR:
    """Build the schedule that multiplies the learning rate of every group by `config.factor` at each step.

    Args:
        optimizer: its groups hold their peak learning rates.
        config: the group `schedule`.
        total_steps: optimiser steps of the whole run.

    Raises:
        ConfigError: if the warm-up is not shorter than the run.
    """
    from torch.optim.lr_scheduler import LambdaLR

    warmup = config.warmup_steps if isinstance(config, WarmupSchedule) else None
    if warmup is not None and warmup >= total_steps:
        raise ConfigError(
            f"schedule.warmup_steps (={warmup}) must be below the number of steps of the run "
            f"(={total_steps}); use schedule.warmup_steps={total_steps // 10} or a longer run"
        )
    return LambdaLR(optimizer, partial(config.factor, total_steps=total_steps))

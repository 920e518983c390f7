"""Options of the group `schedule`: factors of the learning rate at every step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from fcn.config import ConfigError, ScheduleConfig, component, setting

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LambdaLR


@dataclass(kw_only=True)
class WarmupSchedule(ScheduleConfig):
    """Linear warm-up from 1 / warmup_steps at step 0 to 1 at its last step, and then `factor_at`."""

    warmup_steps: int | None = setting(None, "number of linear warm-up steps; null: a tenth of all steps", low=0)

    def factor(self, step: int, total_steps: int) -> float:
        warmup = total_steps // 10 if self.warmup_steps is None else self.warmup_steps
        if step < warmup:
            return (step + 1) / warmup
        return self.factor_at(min(1.0, (step - warmup) / (total_steps - warmup)))

    def factor_at(self, t: float) -> float:
        """Return the factor after the warm-up, at a share t of the remaining steps, from 0 to 1."""
        raise NotImplementedError


@component("schedule", "constant")
class ConstantSchedule(WarmupSchedule):
    """A constant learning rate."""

    warmup_steps: int | None = setting(0, "number of linear warm-up steps; null: a tenth of all steps", low=0)

    def factor_at(self, t: float) -> float:
        return 1.0


@component("schedule", "poly")
class PolySchedule(WarmupSchedule):
    """(1 - t)^power, t from 0 to 1 (DeepLab, Chen et al. 2017)."""

    power: float = setting(0.9, "exponent of the factor", low=0)

    def factor_at(self, t: float) -> float:
        return float((1 - t) ** self.power)


@component("schedule", "cosine")
class CosineSchedule(WarmupSchedule):
    """(1 + cos(pi t)) / 2, t from 0 to 1 (Loshchilov & Hutter 2017)."""

    def factor_at(self, t: float) -> float:
        return 0.5 * (1 + math.cos(math.pi * t))


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

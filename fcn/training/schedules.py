"""Learning-rate schedules: warm-up, then constant, polynomial or cosine."""

from __future__ import annotations

import math
from functools import partial

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from fcn.config import ConfigError, ScheduleConfig
from fcn.config.choices import ScheduleName


def schedule_factor(step: int, *, config: ScheduleConfig, total_steps: int) -> float:
    """Return the factor of the peak learning rate at an optimiser step, from 0 to 1.

    The warm-up rises linearly from 1 / warmup_steps at step 0 to 1 at its last step. After it, t rises from 0 to 1,
    which it reaches at `total_steps`, and the factor is

    - constant: 1
    - poly: (1 - t)^power (DeepLab, Chen et al. 2017)
    - cosine: (1 + cos(pi t)) / 2 (Loshchilov & Hutter 2017)

    Args:
        step: number of steps taken before, from 0.
        config: the group `schedule`.
        total_steps: steps of the whole run, more than `schedule.warmup_steps`.
    """
    warmup = total_steps // 10 if config.warmup_steps is None else config.warmup_steps
    if step < warmup:
        return (step + 1) / warmup
    t = min(1.0, (step - warmup) / (total_steps - warmup))
    if config.name is ScheduleName.poly:
        return float((1 - t) ** config.power)
    if config.name is ScheduleName.cosine:
        return 0.5 * (1 + math.cos(math.pi * t))
    return 1.0


def build_schedule(optimizer: Optimizer, config: ScheduleConfig, *, total_steps: int) -> LambdaLR:
    """Build the schedule that multiplies the learning rate of every group by `schedule_factor` at each step.

    Args:
        optimizer: its groups hold their peak learning rates.
        config: the group `schedule`.
        total_steps: optimiser steps of the whole run.

    Raises:
        ConfigError: if the warm-up is not shorter than the run.
    """
    if config.warmup_steps is not None and config.warmup_steps >= total_steps:
        raise ConfigError(
            f"schedule.warmup_steps (={config.warmup_steps}) must be below the number of steps of the run "
            f"(={total_steps}); use schedule.warmup_steps={total_steps // 10} or a longer run"
        )
    return LambdaLR(optimizer, partial(schedule_factor, config=config, total_steps=total_steps))

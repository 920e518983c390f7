"""Parameter groups, optimisers and learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial
from typing import Any

from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from fcn.config import ConfigError, OptimConfig, OptimName, ScheduleConfig, ScheduleName

KINDS = ("", "/no_decay", "/bias")
NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
"""Batch, instance, group and layer norms: their scales are no convolution weights, whatever their shape."""


def build_optimizer(model: nn.Module, *, head: Iterable[nn.Parameter], config: OptimConfig, lr: float) -> Optimizer:
    """Optimiser over the parameters that train, in named groups.

    The groups are `trunk`, `trunk/no_decay`, `trunk/bias` and the same of `head`, in this order and without the
    empty ones. Biases, norms and all other parameters of at most one axis longer than 1 are not decayed, unless
    `optim.decay_all`. Biases (but not those of norms) are a group of their own only if `optim.bias_lr_multiplier`
    is not 1. Frozen parameters are in no group: they get neither gradient nor decay.

    Fused: one kernel for all of a step, on a GPU and on a CPU.

    Args:
        model: trunk and head.
        head: those of its parameters whose learning rate is `lr * optim.head_lr_multiplier`.
        config: the group `optim`.
        lr: peak learning rate of the trunk.
    """
    groups = _parameter_groups(model, head=head, config=config, lr=lr)
    if config.name is OptimName.adamw:
        beta1, beta2 = config.betas
        return AdamW(groups, lr=lr, betas=(beta1, beta2), weight_decay=config.weight_decay, fused=True)
    momentum, decay = config.momentum, config.weight_decay
    return SGD(groups, lr=lr, momentum=momentum, nesterov=config.nesterov, weight_decay=decay, fused=True)


def _parameter_groups(
    model: nn.Module, *, head: Iterable[nn.Parameter], config: OptimConfig, lr: float
) -> list[dict[str, Any]]:
    heads = set(head)
    norms = _of_norms(model)
    # ConvNeXt's layer scales are vectors too, of shape [channels, 1, 1].
    undecayed = norms | {parameter for parameter in model.parameters() if parameter.squeeze().ndim <= 1}
    biases = {parameter for name, parameter in model.named_parameters() if name.endswith("bias")} - norms
    members: dict[str, list[nn.Parameter]] = {part + kind: [] for part in ("trunk", "head") for kind in KINDS}
    for parameter in model.parameters():
        if parameter.requires_grad:
            kind = "/no_decay" if parameter in undecayed and not config.decay_all else ""
            if parameter in biases and config.bias_lr_multiplier != 1:
                kind = "/bias"
            members[("head" if parameter in heads else "trunk") + kind].append(parameter)
    return [
        {
            "name": name,
            "params": parameters,
            "lr": lr * _lr_factor(name, config),
            "weight_decay": 0.0 if "/" in name and not config.decay_all else config.weight_decay,
        }
        for name, parameters in members.items()
        if parameters
    ]


def _lr_factor(group: str, config: OptimConfig) -> float:
    head = config.head_lr_multiplier if group.startswith("head") else 1.0
    return head * (config.bias_lr_multiplier if group.endswith("/bias") else 1.0)


def _of_norms(model: nn.Module) -> set[nn.Parameter]:
    return {
        parameter
        for module in model.modules()
        if isinstance(module, NORMS)
        for parameter in module.parameters(recurse=False)
    }


def schedule_factor(config: ScheduleConfig, step: int, total_steps: int) -> float:
    """Factor of the peak learning rate at optimiser step `step`, from 0 to 1.

    The warm-up rises linearly: 1 / warmup_steps at step 0, 1 at its last step. From the step after it, t
    goes from 0 to 1 at `total_steps`, the step after the run's last one, and stays there. Then

    - constant: 1
    - poly: (1 - t)^power (DeepLab, Chen et al. 2017)
    - cosine: (1 + cos(pi t)) / 2 (Loshchilov & Hutter 2017)

    Args:
        config: the group `schedule`.
        step: steps already made, from 0.
        total_steps: steps of the whole run, above `schedule.warmup_steps`.
    """
    warmup = total_steps // 10 if config.warmup_steps is None else config.warmup_steps
    if step < warmup:
        return (step + 1) / warmup
    t = min(1.0, (step - warmup) / (total_steps - warmup))
    if config.name is ScheduleName.poly:
        # At power 0 this is constant, 0 ** 0 being 1.
        return float((1 - t) ** config.power)
    if config.name is ScheduleName.cosine:
        return 0.5 * (1 + math.cos(math.pi * t))
    return 1.0


def build_schedule(optimizer: Optimizer, config: ScheduleConfig, *, total_steps: int) -> LambdaLR:
    """Schedule that multiplies the learning rate of every group by `schedule_factor`, stepped once per step.

    Args:
        optimizer: its groups carry their peak learning rates.
        config: the group `schedule`.
        total_steps: optimiser steps of the whole run.

    Raises:
        ConfigError: if the warm-up takes the whole run.
    """
    if config.warmup_steps is not None and config.warmup_steps >= total_steps:
        raise ConfigError(
            f"schedule.warmup_steps (={config.warmup_steps}) must be below the number of steps of the run "
            f"(={total_steps}); use schedule.warmup_steps={total_steps // 10} or more epochs"
        )
    return LambdaLR(optimizer, partial(_factor_at, config=config, total_steps=total_steps))


def _factor_at(step: int, *, config: ScheduleConfig, total_steps: int) -> float:
    return schedule_factor(config, step, total_steps)

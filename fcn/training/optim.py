"""Optimisers and their parameter groups: backbone and head, weight decay, bias learning rate."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer

from fcn.config import OptimConfig

KINDS = ("", "/no_decay", "/bias")
NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
"""Batch, instance, group and layer norms: their parameters are never decayed, independent of their shape."""


def build_optimizer(model: nn.Module, *, head: Iterable[nn.Parameter], config: OptimConfig, lr: float) -> Optimizer:
    """Build the optimiser over all trainable parameters, in named groups.

    The groups are `backbone`, `backbone/no_decay`, `backbone/bias`, then the same for `head`; empty groups are left
    out. Biases, norms and all other parameters with at most one axis longer than 1 are not decayed, unless
    `optim.decay_all`. Biases outside norms have their own group only if `optim.bias_lr_multiplier` is not 1. The
    implementation is fused: one kernel for a whole step, on a GPU and on a CPU.

    Args:
        model: backbone and head.
        head: parameters of `model` whose learning rate is `lr * optim.head_lr_multiplier`.
        config: the group `optim`.
        lr: peak learning rate of the backbone.
    """
    return config.build(_parameter_groups(model, head=head, config=config, lr=lr), lr)


def _parameter_groups(
    model: nn.Module, *, head: Iterable[nn.Parameter], config: OptimConfig, lr: float
) -> list[dict[str, Any]]:
    head_parameters = set(head)
    norms = _norm_parameters(model)
    # ConvNeXt's layer scales, of shape [channels, 1, 1], are vectors too.
    undecayed = norms | {parameter for parameter in model.parameters() if parameter.squeeze().ndim <= 1}
    biases = {parameter for name, parameter in model.named_parameters() if name.endswith("bias")} - norms
    members: dict[str, list[nn.Parameter]] = {part + kind: [] for part in ("backbone", "head") for kind in KINDS}
    for parameter in model.parameters():
        if parameter.requires_grad:
            kind = "/no_decay" if parameter in undecayed and not config.decay_all else ""
            if parameter in biases and config.bias_lr_multiplier != 1:
                kind = "/bias"
            members[("head" if parameter in head_parameters else "backbone") + kind].append(parameter)
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


def _norm_parameters(model: nn.Module) -> set[nn.Parameter]:
    norms = (module for module in model.modules() if isinstance(module, NORMS))
    return {parameter for norm in norms for parameter in norm.parameters(recurse=False)}

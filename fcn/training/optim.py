"""Optimisers and their parameter groups: backbone and head, weight decay, bias learning rate."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from typing import Any

from pytorch_lightning.plugins.precision import Precision
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from fcn.config import BackboneConfig, OptimConfig

KINDS = ("", "/no_decay", "/bias")
NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
"""Batch, instance, group and layer norms: their parameters are never decayed, independent of their shape."""


def build_optimizer(
    model: nn.Module,
    *,
    head: Iterable[nn.Parameter],
    config: OptimConfig,
    lr: float,
    backbone: BackboneConfig | None = None,
) -> Optimizer:
    """Build the optimiser over all trainable parameters, in named groups.

    The groups are `backbone`, `backbone/no_decay`, `backbone/bias`, then the same for `head`; empty groups are left
    out. Biases, norms and all other parameters with at most one axis longer than 1 are not decayed, unless
    `optim.decay_all`. Biases outside norms have their own group only if `optim.bias_lr_multiplier` is not 1. With
    `backbone.layer_decay`, each layer n of the backbone has its own groups `backbone.n`.

    Args:
        model: backbone and head.
        head: parameters of `model` whose learning rate is `lr * optim.head_lr_multiplier`.
        config: the group `optim`.
        lr: peak learning rate.
        backbone: the group `backbone`, whose keys give the factor of the learning rate of the backbone; None: 1.
    """
    parts = {"head": set(head)}
    factors = {"backbone": backbone.lr_multiplier if backbone else 1.0, "head": config.head_lr_multiplier}
    if decay := getattr(backbone, "layer_decay", None):
        layers = _layers(model)
        parts |= {f"backbone.{number}": parameters for number, parameters in layers.items()}
        # The head follows the last layer, as in BEiT (Bao et al. 2022).
        scales = {f"backbone.{number}": decay ** (max(layers) + 1 - number) for number in layers}
        factors |= {name: factors["backbone"] * scale for name, scale in scales.items()}
    groups = _parameter_groups(model, parts=parts, lr_factors=factors, config=config, lr=lr)
    return config.build(groups, lr)


def _layers(model: nn.Module) -> dict[int, set[nn.Parameter]]:
    """Return the parameters of every layer of the backbone; its method `layer_ids` numbers them by parameter name."""
    module: Any = model.get_submodule("backbone")
    layers: dict[int, set[nn.Parameter]] = {}
    parameters = dict(module.named_parameters())
    for name, number in sorted(module.layer_ids().items(), key=lambda item: item[1]):
        layers.setdefault(number, set()).add(parameters[name])
    return layers


def _parameter_groups(
    model: nn.Module,
    *,
    parts: Mapping[str, Set[nn.Parameter]],
    lr_factors: Mapping[str, float],
    config: OptimConfig,
    lr: float,
) -> list[dict[str, Any]]:
    norms = _norm_parameters(model)
    # ConvNeXt's layer scales, of shape [channels, 1, 1], are vectors too.
    undecayed = norms | {parameter for parameter in model.parameters() if parameter.squeeze().ndim <= 1}
    biases = {parameter for name, parameter in model.named_parameters() if name.endswith("bias")} - norms
    part_of = {parameter: part for part, parameters in parts.items() for parameter in parameters}
    members: dict[str, list[nn.Parameter]] = {part + kind: [] for part in lr_factors for kind in KINDS}
    for parameter in model.parameters():
        if parameter.requires_grad:
            kind = "/no_decay" if parameter in undecayed and not config.decay_all else ""
            if parameter in biases and config.bias_lr_multiplier != 1:
                kind = "/bias"
            members[part_of.get(parameter, "backbone") + kind].append(parameter)
    return [
        {
            "name": name,
            "params": parameters,
            "lr": lr * lr_factors[name.partition("/")[0]] * (config.bias_lr_multiplier if "/bias" in name else 1.0),
            "weight_decay": 0.0 if "/" in name and not config.decay_all else config.weight_decay,
        }
        for name, parameters in members.items()
        if parameters
    ]


def _norm_parameters(model: nn.Module) -> set[nn.Parameter]:
    norms = (module for module in model.modules() if isinstance(module, NORMS))
    return {parameter for norm in norms for parameter in norm.parameters(recurse=False)}


def apply_settings(configured: Optimizer, *, to: Optimizer, schedule: LambdaLR) -> None:
    """Set learning rate, weight decay and all other settings of an optimiser as configured, but keep its state.

    Args:
        configured: newly built optimiser.
        to: optimiser of the same groups, restored from a checkpoint with the settings of that time.
        schedule: its schedule.
    """
    for number, (group, settings) in enumerate(zip(to.param_groups, configured.param_groups, strict=True)):
        lr = schedule.base_lrs[number] = settings["lr"]
        group.update({key: value for key, value in settings.items() if key != "params"})
        group.update(initial_lr=lr, lr=lr * schedule.lr_lambdas[number](schedule.last_epoch))


def unscale_gradients(optimizer: Optimizer, precision: Precision) -> None:
    """Divide the gradient by the loss scale of fp16 if the optimiser would do so only in its step, as fused ones do."""
    scaler = getattr(precision, "scaler", None)
    if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
        scaler.unscale_(optimizer)

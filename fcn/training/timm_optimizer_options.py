"""Options of the group `optim`: optimisers of timm.

They are built by their classes, not by `timm.optim.create_optimizer_v2`, which would form parameter groups by its own
rules. Learning rate and weight decay are those of the groups of `fcn.training.optim`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fcn.config import Config, OptimConfig, component, setting
from fcn.training.optimizer_options import Groups, MomentsConfig, check_betas, check_nesterov

if TYPE_CHECKING:
    from torch.optim import Optimizer


@component("optim", "lion", lr=1e-4)
class LionConfig(OptimConfig):
    """Lion: the sign of a momentum, with decoupled weight decay (Chen et al. 2023)."""

    betas: list[float] = setting([0.9, 0.99], "decay rates of the step and of the momentum", low=0, high=0.999999)

    def check(self, config: Config) -> None:
        check_betas(self.betas, "[0.9,0.99]")

    def build(self, groups: Groups, lr: float) -> Optimizer:
        from timm.optim.lion import Lion

        beta1, beta2 = self.betas
        return Lion(groups, lr=lr, betas=(beta1, beta2), weight_decay=self.weight_decay)


@component("optim", "lamb")
class LambConfig(MomentsConfig):
    """LAMB: Adam with the step of every layer scaled to the norm of its weights (You et al. 2020).

    The gradient is clipped only by `optim.clip_norm`; the paper uses 1.
    """

    eps: float = setting(1e-6, "term added to the root of the second moment", low=0)
    trust_clip: bool = setting(False, "limit the scale of a layer's step to 1")

    def build(self, groups: Groups, lr: float) -> Optimizer:
        from timm.optim.lamb import Lamb

        return Lamb(groups, lr=lr, max_grad_norm=None, trust_clip=self.trust_clip, **self.arguments())


@component("optim", "lars", lr=1.0)
class LarsConfig(OptimConfig):
    """LARS: SGD with the step of every layer scaled to the norm of its weights (You et al. 2017).

    Parameters without weight decay, such as biases and norm layers, take plain SGD steps.
    """

    momentum: float = setting(0.9, "factor of the previous step that is added to each step", low=0, high=1)
    nesterov: bool = setting(False, "use Nesterov momentum")
    trust_coefficient: float = setting(1e-3, "norm of a layer's step relative to that of its weights, at lr 1", low=0)

    def check(self, config: Config) -> None:
        check_nesterov(nesterov=self.nesterov, momentum=self.momentum)

    def build(self, groups: Groups, lr: float) -> Optimizer:
        from timm.optim.lars import Lars

        options: dict[str, Any] = {
            "momentum": self.momentum,
            "nesterov": self.nesterov,
            "trust_coeff": self.trust_coefficient,
        }
        return Lars(groups, lr=lr, weight_decay=self.weight_decay, **options)


@component("optim", "adan")
class AdanConfig(OptimConfig):
    """Adan: adaptive Nesterov momentum, with decoupled weight decay (Xie et al. 2022)."""

    betas: list[float] = setting(
        [0.98, 0.92, 0.99], "decay rates of the gradient, of its change and of the second moment", low=0, high=0.999999
    )
    eps: float = setting(1e-8, "term added to the root of the second moment", low=0)

    def check(self, config: Config) -> None:
        check_betas(self.betas, "[0.98,0.92,0.99]")

    def build(self, groups: Groups, lr: float) -> Optimizer:
        from timm.optim.adan import Adan

        beta1, beta2, beta3 = self.betas
        return Adan(groups, lr=lr, betas=(beta1, beta2, beta3), eps=self.eps, weight_decay=self.weight_decay)


@component("optim", "adopt")
class AdoptConfig(MomentsConfig):
    """ADOPT: Adam that converges for every second decay rate, with decoupled weight decay (Taniguchi et al. 2024)."""

    betas: list[float] = setting([0.9, 0.9999], "decay rates of both moments", low=0, high=0.999999)
    eps: float = setting(1e-6, "smallest root of the second moment", low=0)

    def build(self, groups: Groups, lr: float) -> Optimizer:
        from timm.optim.adopt import Adopt

        return Adopt(groups, lr=lr, decoupled=True, **self.arguments())


@component("optim", "muon")
class MuonConfig(OptimConfig):
    """Muon: orthogonalised momentum for convolutions and matrices, AdamW for all other weights (Jordan et al. 2024).

    The steps are scaled to the size of AdamW's, so that its learning rates apply (Liu et al. 2025).
    """

    momentum: float = setting(0.95, "decay rate of the momentum", low=0, high=0.999999)
    nesterov: bool = setting(True, "use Nesterov momentum, also in AdamW")
    betas: list[float] = setting([0.9, 0.95], "decay rates of both moments of AdamW", low=0, high=0.999999)

    def check(self, config: Config) -> None:
        check_betas(self.betas, "[0.9,0.95]")

    def build(self, groups: Groups, lr: float) -> Optimizer:
        from timm.optim.muon import Muon

        beta1, beta2 = self.betas
        options: dict[str, Any] = {
            "momentum": self.momentum,
            "nesterov": self.nesterov,
            "adjust_lr_fn": "match_rms_adamw",
        }
        return Muon(groups, lr=lr, betas=(beta1, beta2), weight_decay=self.weight_decay, **options)

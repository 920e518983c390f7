"""Options of the group `optim`: optimisers of torch.

Every optimiser takes learning rate and weight decay from the parameter groups of `fcn.training.optim`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fcn.config import Config, ConfigError, OptimConfig, component, setting

if TYPE_CHECKING:
    from torch.optim import Optimizer

Groups = list[dict[str, Any]]


def check_betas(betas: Sequence[float], example: str) -> None:
    """Check that `optim.betas` has as many numbers as the example.

    Raises:
        ConfigError: if it has not.
    """
    count = example.count(",") + 1
    if len(betas) != count:
        raise ConfigError(f"optim.betas (={betas}) must be {('two', 'three')[count - 2]} numbers: {example}")


def check_nesterov(*, nesterov: bool, momentum: float) -> None:
    """Check that Nesterov momentum has a momentum.

    Raises:
        ConfigError: if it has not.
    """
    if nesterov and momentum == 0:
        raise ConfigError("optim.nesterov (=true) must have optim.momentum above 0; use optim.momentum=0.9")


@component("optim", "sgd", lr=0.01)
class SgdConfig(OptimConfig):
    """Stochastic gradient descent with momentum; weight decay is added to the gradient."""

    momentum: float = setting(0.9, "factor of the previous step that is added to each step", low=0, high=1)
    nesterov: bool = setting(False, "use Nesterov momentum")
    is_fused = True

    def check(self, config: Config) -> None:
        check_nesterov(nesterov=self.nesterov, momentum=self.momentum)

    def build(self, groups: Groups, lr: float) -> Optimizer:
        from torch.optim import SGD

        decay = self.weight_decay
        return SGD(groups, lr=lr, momentum=self.momentum, nesterov=self.nesterov, weight_decay=decay, fused=True)


@dataclass(kw_only=True)
class MomentsConfig(OptimConfig):
    """Optimisers that divide by the root of the second moment of the gradient."""

    betas: list[float] = setting([0.9, 0.999], "decay rates of both moments", low=0, high=0.999999)
    eps: float = setting(1e-8, "term added to the root of the second moment", low=0)

    def check(self, config: Config) -> None:
        check_betas(self.betas, "[0.9,0.999]")

    def arguments(self) -> dict[str, Any]:
        """Return the arguments that these optimisers share."""
        return {"betas": tuple(self.betas), "eps": self.eps, "weight_decay": self.weight_decay}


@dataclass(kw_only=True)
class AdamKeys(MomentsConfig):
    """Keys of Adam and AdamW."""

    amsgrad: bool = setting(False, "divide by the maximum of the second moment (Reddi et al. 2018)")
    is_fused = True

    def arguments(self) -> dict[str, Any]:
        return {**super().arguments(), "amsgrad": self.amsgrad, "fused": True}


@component("optim", "adamw")
class AdamWConfig(AdamKeys):
    """AdamW: Adam with decoupled weight decay (Loshchilov & Hutter 2019)."""

    def build(self, groups: Groups, lr: float) -> Optimizer:
        from torch.optim import AdamW

        return AdamW(groups, lr=lr, **self.arguments())


@component("optim", "adam")
class AdamConfig(AdamKeys):
    """Adam (Kingma & Ba 2015); weight decay is added to the gradient."""

    def build(self, groups: Groups, lr: float) -> Optimizer:
        from torch.optim import Adam

        return Adam(groups, lr=lr, **self.arguments())


@component("optim", "nadam")
class NAdamConfig(MomentsConfig):
    """NAdam: Adam with Nesterov momentum (Dozat 2016)."""

    momentum_decay: float = setting(4e-3, "decay of the momentum over the steps", low=0)
    decoupled_decay: bool = setting(False, "decay the weights as AdamW does; false: add the decay to the gradient")

    def build(self, groups: Groups, lr: float) -> Optimizer:
        from torch.optim import NAdam

        options: dict[str, Any] = {
            "momentum_decay": self.momentum_decay,
            "decoupled_weight_decay": self.decoupled_decay,
        }
        return NAdam(groups, lr=lr, **options, **self.arguments())


@component("optim", "radam")
class RAdamConfig(MomentsConfig):
    """RAdam: Adam with a rectified second moment, in place of a warm-up (Liu et al. 2020)."""

    decoupled_decay: bool = setting(False, "decay the weights as AdamW does; false: add the decay to the gradient")

    def build(self, groups: Groups, lr: float) -> Optimizer:
        from torch.optim import RAdam

        return RAdam(groups, lr=lr, decoupled_weight_decay=self.decoupled_decay, **self.arguments())


@component("optim", "rmsprop")
class RMSpropConfig(OptimConfig):
    """RMSprop (Hinton 2012); weight decay is added to the gradient."""

    alpha: float = setting(0.99, "decay rate of the second moment", low=0, high=0.999999)
    momentum: float = setting(0.0, "factor of the previous step that is added to each step", low=0, high=1)
    eps: float = setting(1e-8, "term added to the root of the second moment", low=0)
    centered: bool = setting(False, "divide by the standard deviation of the gradient (Graves 2013)")

    def build(self, groups: Groups, lr: float) -> Optimizer:
        from torch.optim import RMSprop

        options: dict[str, Any] = {
            "alpha": self.alpha,
            "momentum": self.momentum,
            "eps": self.eps,
            "centered": self.centered,
        }
        return RMSprop(groups, lr=lr, weight_decay=self.weight_decay, **options)


@component("optim", "adagrad", lr=0.01)
class AdagradConfig(OptimConfig):
    """Adagrad (Duchi et al. 2011); weight decay is added to the gradient."""

    lr_decay: float = setting(0.0, "decay of the learning rate over the steps, in addition to the schedule", low=0)
    initial_accumulator: float = setting(0.0, "initial sum of squared gradients", low=0)
    eps: float = setting(1e-10, "term added to the root of the sum of squared gradients", low=0)

    def build(self, groups: Groups, lr: float) -> Optimizer:
        from torch.optim import Adagrad

        options: dict[str, Any] = {
            "lr_decay": self.lr_decay,
            "initial_accumulator_value": self.initial_accumulator,
            "eps": self.eps,
        }
        return Adagrad(groups, lr=lr, weight_decay=self.weight_decay, **options)

"""Options of the group `optim`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fcn.config import Config, ConfigError, OptimConfig, component, setting

if TYPE_CHECKING:
    from torch.optim import Optimizer


@component("optim", "sgd", lr=0.01)
class SgdConfig(OptimConfig):
    """Stochastic gradient descent with momentum."""

    momentum: float = setting(0.9, "factor of the previous step that is added to each step", low=0, high=1)
    nesterov: bool = setting(False, "use Nesterov momentum")

    def check(self, config: Config) -> None:
        if self.nesterov and self.momentum == 0:
            raise ConfigError("optim.nesterov (=true) must have optim.momentum above 0; use optim.momentum=0.9")

    def build(self, groups: list[dict[str, Any]], lr: float) -> Optimizer:
        from torch.optim import SGD

        decay = self.weight_decay
        return SGD(groups, lr=lr, momentum=self.momentum, nesterov=self.nesterov, weight_decay=decay, fused=True)


@component("optim", "adamw")
class AdamWConfig(OptimConfig):
    """AdamW (Loshchilov & Hutter 2019)."""

    betas: list[float] = setting([0.9, 0.999], "decay rates of both moments", low=0, high=0.999999)

    def check(self, config: Config) -> None:
        if len(self.betas) != 2:
            raise ConfigError(f"optim.betas (={self.betas}) must be two numbers: [0.9,0.999]")

    def build(self, groups: list[dict[str, Any]], lr: float) -> Optimizer:
        from torch.optim import AdamW

        beta1, beta2 = self.betas
        return AdamW(groups, lr=lr, betas=(beta1, beta2), weight_decay=self.weight_decay, fused=True)

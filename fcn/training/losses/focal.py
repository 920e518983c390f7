"""Focal loss: the cross-entropy with less weight on pixels that are already classified well."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from fcn.config import component, setting
from fcn.training.losses.base import Loss
from fcn.training.losses.class_weights import ClassWeightedConfig, ClassWeights

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


@component("loss", "focal")
class FocalConfig(ClassWeightedConfig):
    """Focal loss: cross-entropy with less weight on pixels that are already classified well."""

    gamma: float = setting(2.0, "exponent of the focusing factor; 0: cross-entropy", low=0)

    def build(self, class_counts: Callable[[], NDArray[np.int64]]) -> FocalLoss:
        return FocalLoss(self.gamma, class_weights=self.weights_of(class_counts))


class FocalLoss(Loss):
    """Mean over the pixels of -(1 - p)^gamma log p, where p is the probability of the pixel's class.

    Source: Lin et al. 2017, "Focal Loss for Dense Object Detection", equations 4 and 5, with the softmax over all
    classes in place of a sigmoid. As in the weighted cross-entropy, the mean divides by the weights of the pixels.

    Args:
        gamma: exponent of the focusing factor; 0 gives the cross-entropy.
        class_weights: weight of each class, alpha in the paper; None: 1 for every class.
    """

    def __init__(self, gamma: float, *, class_weights: Sequence[float] | None = None) -> None:
        self._gamma = gamma
        self._weights = ClassWeights(class_weights)

    def numerator(self, logits: Tensor, target: Tensor) -> Tensor:
        from fcn.training.losses.pixels import log_probabilities, pixel_losses

        log_probability = log_probabilities(logits)
        losses = pixel_losses(log_probability, target)
        # 1 - p without cancellation. The smallest value keeps the gradient of the power finite at p = 1.
        error = -(-losses).expm1()
        focal = error.clamp(min=1e-12).pow(self._gamma) * losses
        if self._weights.values is not None:
            focal = focal * self._weights.of_pixels(target).to(focal.dtype)
        return focal.sum()

    def count(self, target: Tensor) -> Tensor:
        return self._weights.image_counts(target).sum()

    def state(self) -> dict[str, Any]:
        return self._weights.state()

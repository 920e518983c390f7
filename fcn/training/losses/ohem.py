"""Online hard example mining: the cross-entropy of the hardest pixels of each image."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from fcn.config import IGNORE_INDEX, LossConfig, component, setting
from fcn.training.losses.base import Loss

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


@component("loss", "ohem")
class OhemConfig(LossConfig):
    """Cross-entropy of the hardest pixels of each image (online hard example mining)."""

    fraction: float = setting(0.25, "fraction of the non-void pixels of an image that count", low=1e-6, high=1)

    def build(self, class_counts: Callable[[], NDArray[np.int64]]) -> OhemLoss:
        return OhemLoss(self.fraction)


class OhemLoss(Loss):
    """Mean cross-entropy of the hardest pixels: for each image, the given fraction of its non-void pixels, rounded up.

    Sources: Shrivastava et al. 2016, "Training Region-based Object Detectors with Online Hard Example Mining", and Wu
    et al. 2016, "Bridging Category-level and Instance-level Semantic Image Segmentation", section 3, which selects
    pixels. There the pixels are selected in a batch; here in each image, so that parts of a batch add up.

    Args:
        fraction: fraction of the non-void pixels of an image, above 0; 1 gives the cross-entropy.
    """

    def __init__(self, fraction: float) -> None:
        self._fraction = fraction

    def numerator(self, logits: Tensor, target: Tensor) -> Tensor:
        import torch

        from fcn.training.losses.pixels import log_probabilities, pixel_losses

        losses = pixel_losses(log_probabilities(logits), target)
        losses = losses.where(target != IGNORE_INDEX, -1).flatten(1)  # void pixels come last
        hardest = losses.sort(dim=1, descending=True, stable=True).values
        rank = torch.arange(hardest.shape[1], device=hardest.device)
        return (hardest * (rank < self._num_hardest(target).unsqueeze(1))).sum()

    def count(self, target: Tensor) -> Tensor:
        return self._num_hardest(target).sum()

    def _num_hardest(self, target: Tensor) -> Tensor:
        """Return the number of selected pixels of each image, int64 [N]."""
        from fcn.training.losses.pixels import num_pixels

        return (self._fraction * num_pixels(target).double()).ceil().long()

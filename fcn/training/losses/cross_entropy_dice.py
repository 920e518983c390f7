"""Sum of cross-entropy and Dice loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from fcn.config import LossConfig, component, setting
from fcn.training.losses.base import ImageLoss
from fcn.training.losses.dice import dice_losses

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


@component("loss", "cross_entropy_dice")
class CrossEntropyDiceConfig(LossConfig):
    """Sum of cross-entropy and Dice loss, per image."""

    dice_weight: float = setting(1.0, "factor of the Dice loss", low=0)
    smooth: float = setting(0.0, "number added to numerator and denominator of the Dice coefficient", low=0)

    def build(self, class_counts: Callable[[], NDArray[np.int64]]) -> CrossEntropyDiceLoss:
        return CrossEntropyDiceLoss(self.dice_weight, self.smooth)


class CrossEntropyDiceLoss(ImageLoss):
    """Mean over the images of the mean cross-entropy of the image's pixels plus its Dice loss.

    Both terms are averaged over images, so that one count suffices. Source: Isensee et al. 2021, "nnU-Net", which
    averages the cross-entropy over all pixels of the batch instead.

    Args:
        dice_weight: factor of the Dice loss.
        smooth: see `dice_losses`.
    """

    def __init__(self, dice_weight: float, smooth: float) -> None:
        self._dice_weight = dice_weight
        self._smooth = smooth

    def image_losses(self, logits: Tensor, target: Tensor) -> Tensor:
        from fcn.training.losses.pixels import log_probabilities, num_pixels, pixel_losses

        log_probability = log_probabilities(logits)
        sums = pixel_losses(log_probability, target).sum(dim=(1, 2))
        dice = dice_losses(log_probability.exp(), target, smooth=self._smooth)
        return sums / num_pixels(target).clamp(min=1) + self._dice_weight * dice

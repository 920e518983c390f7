"""Sum of cross-entropy and Dice loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fcn.training.losses.base import ImageLoss
from fcn.training.losses.dice import dice_losses

if TYPE_CHECKING:
    from torch import Tensor


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

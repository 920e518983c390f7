"""Dice loss: one minus the overlap of prediction and mask, for each class of an image."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from fcn.config import LossConfig, component, setting
from fcn.training.losses.base import ImageLoss

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


@component("loss", "dice")
class DiceConfig(LossConfig):
    """Dice loss: one minus the overlap of prediction and mask, per image."""

    smooth: float = setting(0.0, "number added to numerator and denominator of the Dice coefficient", low=0)

    def build(self, class_counts: Callable[[], NDArray[np.int64]]) -> DiceLoss:
        return DiceLoss(self.smooth)


class DiceLoss(ImageLoss):
    """Mean over the images of `dice_losses`.

    Args:
        smooth: number added to numerator and denominator of the Dice coefficient.
    """

    def __init__(self, smooth: float) -> None:
        self._smooth = smooth

    def image_losses(self, logits: Tensor, target: Tensor) -> Tensor:
        from fcn.training.losses.pixels import log_probabilities

        return dice_losses(log_probabilities(logits).exp(), target, smooth=self._smooth)


def dice_losses(probabilities: Tensor, target: Tensor, *, smooth: float) -> Tensor:
    """Return one minus the Dice coefficient of each image, averaged over the classes in its mask, [N]; 0 for all void.

    With the probability p and the indicator y of a class at each non-void pixel, the Dice coefficient is
    (2 sum p y + smooth) / (sum p + sum y + smooth): Drozdzal et al. 2016, "The Importance of Skip Connections in
    Biomedical Image Segmentation", and Sudre et al. 2017.

    Args:
        probabilities: float [N, C, H, W].
        target: [N, H, W], a class or 255 for void.
        smooth: see above.
    """
    from fcn.training.losses.pixels import class_masks

    masks = class_masks(target, probabilities.shape[1])
    in_classes = masks.sum(dim=(2, 3))
    present = in_classes > 0
    predicted = (probabilities * masks.any(dim=1, keepdim=True)).sum(dim=(2, 3))
    overlaps = (probabilities * masks).sum(dim=(2, 3))
    # A class that is not in the mask gets a denominator of at least 1, so that its gradient is not NaN.
    dice = (2 * overlaps + smooth) / (predicted + in_classes.clamp(min=1) + smooth)
    return ((1 - dice) * present).sum(dim=1) / present.sum(dim=1).clamp(min=1)

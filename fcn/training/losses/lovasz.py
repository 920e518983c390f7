"""Lovasz-softmax loss: a convex surrogate of the mean IoU."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from fcn.config import LossConfig, component
from fcn.training.losses.base import ImageLoss

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


@component("loss", "lovasz")
class LovaszConfig(LossConfig):
    """Lovasz-softmax loss, a convex surrogate of the mean IoU, per image."""

    def build(self, class_counts: Callable[[], NDArray[np.int64]]) -> LovaszLoss:
        return LovaszLoss()


class LovaszLoss(ImageLoss):
    """Mean over the images of the Lovasz-softmax loss, itself averaged over the classes in the image's mask.

    The loss of a class is the Lovasz extension of its Jaccard loss, 1 - IoU, at the errors |y - p| of the non-void
    pixels, where p is the probability and y the indicator of the class. Source: Berman et al. 2018, "The
    Lovasz-Softmax loss", equations 8, 9 and 11.

    Classes that are not in a mask are not sorted. Reading which ones these are waits for a GPU in every step.
    """

    def image_losses(self, logits: Tensor, target: Tensor) -> Tensor:
        from fcn.training.losses.pixels import class_masks, log_probabilities

        probabilities = log_probabilities(logits).exp()
        masks = class_masks(target, logits.shape[1])
        present = masks.any(dim=3).any(dim=2)
        image, number = present.nonzero(as_tuple=True)
        valid = masks.any(dim=1)[image].flatten(1)
        losses = lovasz_losses(probabilities[image, number].flatten(1), masks[image, number].flatten(1), valid)
        means = losses / present.sum(dim=1)[image]
        return means.new_zeros(len(target)).index_add(0, image, means)


def lovasz_losses(probabilities: Tensor, masks: Tensor, valid: Tensor) -> Tensor:
    """Return the Lovasz extension of the Jaccard loss of each row, [K].

    Args:
        probabilities: float [K, P], probability of a class at each pixel.
        masks: bool [K, P], the pixels of the class, at least one in each row.
        valid: bool [K, P], the non-void pixels.
    """
    import torch

    # Void pixels come last, with an error of 0; they change neither loss nor gradient of the others.
    errors = (masks.to(probabilities.dtype) - probabilities).abs().where(valid, -1)
    errors, order = errors.sort(dim=1, descending=True, stable=True)
    in_class = masks.gather(1, order)
    # The gradient of the extension is the increase of 1 - intersection / union when the pixels count as wrong in this
    # order. Differences of that quotient would lose half the digits of float32, so they are written out.
    num_in_class = masks.sum(dim=1, keepdim=True)
    rank = torch.arange(1, masks.shape[1] + 1, device=masks.device)
    intersection = num_in_class - in_class.cumsum(dim=1)
    union = rank + intersection
    total = union.to(probabilities.dtype)
    increase = (1 / total).where(in_class, intersection / (total * (total - 1).clamp(min=1)))
    return (errors.clamp(min=0) * increase).sum(dim=1)

"""Cross-entropy of the pixels, in three normalisations, with class weights and label smoothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

from fcn.config import IGNORE_INDEX, Config, component, setting
from fcn.config.choices import Reduction
from fcn.training.losses.base import Loss, divide
from fcn.training.losses.class_weights import ClassWeightedConfig, ClassWeights

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor


@component("loss", "cross_entropy")
class CrossEntropyConfig(ClassWeightedConfig):
    """Cross-entropy of the pixels."""

    reduction: Reduction = setting(
        Reduction.pixel_mean,
        "pixel_mean: mean over all pixels of the batch; image_sum: mean over the pixels of each image, summed over "
        "the images (d2l chapter); pixel_sum: sum over all pixels (Shelhamer et al.)",
    )
    label_smoothing: float = setting(0.0, "probability that is distributed equally over all classes", low=0, high=1)

    def describe(self) -> str:
        weights = ", class weights" if self.class_weights is not None else ""
        smoothing = f", label smoothing {self.label_smoothing:g}" if self.label_smoothing else ""
        return f"{self.reduction}{weights}{smoothing}"

    def comparable_lr(self, config: Config) -> float | None:
        if self.reduction is Reduction.pixel_mean or self.class_weights is not None:
            return None
        return comparable_lr(config.lr, self.reduction, batch_size=config.batch_size, crop_size=config.data.crop_size)

    def build(self, class_counts: Callable[[], NDArray[np.int64]]) -> CrossEntropyLoss:
        weights = self.weights_of(class_counts)
        return CrossEntropyLoss(self.reduction, class_weights=weights, label_smoothing=self.label_smoothing)


class CrossEntropyLoss(Loss):
    """Cross-entropy of the pixels; the weight of a pixel is that of its class, or 1.

    | reduction  | numerator                                            | count                           |
    |------------|------------------------------------------------------|---------------------------------|
    | pixel_mean | sum over the pixels                                  | sum of the weights of the pixels |
    | image_sum  | sum over the images of the mean over their pixels    | number of images                |
    | pixel_sum  | sum over the pixels                                  | sum of the weights of the pixels |

    Class weights and label smoothing are those of `torch.nn.functional.cross_entropy`: a mean divides by the weights of
    the pixels, and with smoothing s the target probability of a class is s / C, plus 1 - s for the class of the pixel.

    Sources: `image_sum` is the loss of the d2l chapter (section 14.11.4) if no pixel is void; the chapter has no void.
    `pixel_sum` is the unnormalised loss of Shelhamer et al. 2017, section 4.1. Label smoothing: Szegedy et al. 2016.

    Args:
        reduction: the normalisation.
        class_weights: weight of each class; None: 1 for every class.
        label_smoothing: probability that is distributed equally over all classes.
    """

    def __init__(
        self,
        reduction: Reduction = Reduction.pixel_mean,
        *,
        class_weights: Sequence[float] | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        self.reduction = reduction
        self.averages = reduction is Reduction.pixel_mean
        self._weights = ClassWeights(class_weights)
        self._label_smoothing = label_smoothing

    def numerator(self, logits: Tensor, target: Tensor) -> Tensor:
        pixel_loss = self._pixel_losses(logits, target)
        if self.reduction is Reduction.image_sum:
            return divide(pixel_loss.sum(dim=(1, 2)), self._weights.image_counts(target)).sum()
        return pixel_loss.sum()

    def count(self, target: Tensor) -> Tensor:
        import torch

        if self.reduction is Reduction.image_sum:
            return torch.full((), len(target), device=target.device)
        return self._weights.image_counts(target).sum()

    def for_validation(self) -> Loss:
        return CrossEntropyLoss(class_weights=self._weights.values, label_smoothing=self._label_smoothing)

    def state(self) -> dict[str, Any]:
        return self._weights.state()

    def _pixel_losses(self, logits: Tensor, target: Tensor) -> Tensor:
        from fcn.training.losses.pixels import log_probabilities, pixel_losses

        log_probability = log_probabilities(logits)
        weights = self._weights.of_classes(log_probability)
        losses = pixel_losses(log_probability, target, weights)
        if self._label_smoothing:
            weighted = log_probability if weights is None else log_probability * weights.view(-1, 1, 1)
            over_classes = -weighted.mean(dim=1).masked_fill(target == IGNORE_INDEX, 0)
            losses = losses.lerp(over_classes, self._label_smoothing)
        return losses


def comparable_lr(lr: float, reduction: Reduction, *, batch_size: int, crop_size: Sequence[int]) -> float:
    """Return the learning rate on `pixel_mean` that takes the same step as `lr` on `reduction` without void.

    The d2l chapter's 1e-3 on `image_sum` at batch size 32 acts like 0.032; the paper's 1e-10 on `pixel_sum`, at batch
    size 1 and 500 x 500 pixels, like 2.5e-5.

    Args:
        lr: learning rate on `reduction`.
        reduction: the normalisation of the run.
        batch_size: images per step over all processes.
        crop_size: height and width of a training image, pixels.
    """
    factors = {
        Reduction.pixel_mean: 1,
        Reduction.image_sum: batch_size,
        Reduction.pixel_sum: batch_size * prod(crop_size),
    }
    return lr * factors[reduction]

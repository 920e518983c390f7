"""Interface of the losses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


class Loss(ABC):
    """A loss as a numerator and a count, so that parts of a batch and processes can share one step exactly.

    The reported loss is `numerator / count`, each summed over batches and processes first. Void pixels contribute
    neither loss nor gradient; if all pixels are void, the numerator is exactly 0.

    Attributes:
        averages: True: a step minimises the sum of the numerators divided by the sum of the counts; False: the sum of
            the numerators.
    """

    averages = True

    @abstractmethod
    def numerator(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the numerator, a float32 scalar (float64 for float64 logits) with gradient.

        Args:
            logits: float [N, C, H, W]. Half-precision logits are normalised and summed in float32.
            target: uint8 or int64 [N, H, W], a class in [0, C) or 255 for void.

        Raises:
            IndexError: from torch, on the CPU, if a pixel of `target` is neither a class nor void.
        """

    @abstractmethod
    def count(self, target: Tensor) -> Tensor:
        """Return the count, an int64 or float64 scalar; 0 if all pixels are void.

        It depends on the target alone, because a step is normalised before its parts are computed.
        """

    def step_loss(self, numerator: Tensor, count: Tensor) -> Tensor:
        """Return the loss that a step minimises, given the count over all processes; 0 if the count is 0."""
        return divide(numerator, count) if self.averages else numerator

    def for_validation(self) -> Loss:
        """Return the loss that is reported as `val/loss`; its count is the divisor of a mean."""
        return self

    def state(self) -> dict[str, Any]:
        """Return values of configuration keys that were computed from the training masks, as plain data.

        A checkpoint contains them, and a resumed run uses them in place of the configured values.
        """
        return {}


class ImageLoss(Loss):
    """Mean over the images with at least one non-void pixel, of a loss that is defined for an image as a whole."""

    @abstractmethod
    def image_losses(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of each image, float [N]; 0 for an image that is all void."""

    def numerator(self, logits: Tensor, target: Tensor) -> Tensor:
        return self.image_losses(logits, target).sum()

    def count(self, target: Tensor) -> Tensor:
        from fcn.training.losses.pixels import num_pixels

        return (num_pixels(target) > 0).sum()


def divide(numerator: Tensor, count: Tensor) -> Tensor:
    """Return `numerator / count` in the dtype of the numerator, and the numerator itself where the count is 0."""
    return (numerator / count.where(count > 0, 1)).to(numerator.dtype)

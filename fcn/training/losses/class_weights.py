"""Weights of classes in the losses of pixels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from fcn.config import IGNORE_INDEX

if TYPE_CHECKING:
    from torch import Tensor


class ClassWeights:
    """Weights of the pixels of each class, as tensors on the device of a batch.

    Args:
        values: weight of each class; None: 1 for every class.
    """

    def __init__(self, values: Sequence[float] | None) -> None:
        self.values = None if values is None else list(values)
        self._table: Tensor | None = None

    def of_classes(self, like: Tensor) -> Tensor | None:
        """Return the weights in the dtype and on the device of `like`, [C]; None if all are 1."""
        return None if self.values is None else self._of_mask_values(like)[: len(self.values)].to(like.dtype)

    def image_counts(self, target: Tensor) -> Tensor:
        """Return the sum of the weights of the non-void pixels of each image, [N]: float64, or int64 without weights.

        A sum in float64 depends on the number of parts and processes in the last digits only.
        """
        from fcn.training.losses.pixels import num_pixels

        return num_pixels(target) if self.values is None else self.of_pixels(target).sum(dim=(1, 2))

    def of_pixels(self, target: Tensor) -> Tensor:
        """Return the weight of every pixel, float64 [N, H, W]; 0 for void. Only if there are weights."""
        return self._of_mask_values(target)[target.long()]

    def _of_mask_values(self, like: Tensor) -> Tensor:
        """Return the weight of each value of a mask on the device of `like`, float64 [256]; 0 for void."""
        if self._table is None or self._table.device != like.device:  # once: copying to a GPU would wait for it
            import torch

            values = [*(self.values or ()), *[0.0] * (IGNORE_INDEX + 1)][: IGNORE_INDEX + 1]
            self._table = torch.tensor(values, dtype=torch.float64, device=like.device)
        return self._table

    def state(self) -> dict[str, Any]:
        return {} if self.values is None else {"class_weights": self.values}

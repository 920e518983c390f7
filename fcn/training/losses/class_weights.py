"""Weights of classes in the losses of pixels."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fcn.config import IGNORE_INDEX, Config, ConfigError, LossConfig, setting

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

log = logging.getLogger(__name__)

MEDIAN_FREQUENCY = "median_frequency"


@dataclass(kw_only=True)
class ClassWeightedConfig(LossConfig):
    """Keys of the losses whose pixels have the weight of their class."""

    # Structured configurations have no type for a list or a word; `check` tests the value.
    class_weights: Any = setting(
        None, "weight of each class, a list; median_frequency: computed from the training masks; null: 1 for all", low=0
    )

    def check(self, config: Config) -> None:
        weights, num_classes = self.class_weights, len(config.data.classes)
        if weights is None or weights == MEDIAN_FREQUENCY:
            return
        is_list = isinstance(weights, list) and len(weights) == num_classes
        if not is_list or not all(isinstance(weight, (int, float)) and weight is not True for weight in weights):
            raise ConfigError(
                f"loss.class_weights (={weights}) must be null, {MEDIAN_FREQUENCY}, or one number for each of the "
                f"{num_classes} classes of data.classes, such as [{','.join(['1'] * min(num_classes, 3))}...]"
            )
        if not any(weights):
            raise ConfigError(f"loss.class_weights (={weights}) must have a weight above 0; use null for equal weights")

    def weights_of(self, class_counts: Callable[[], NDArray[np.int64]]) -> list[float] | None:
        """Return the weight of each class, None if all are 1; a class without pixels in the masks gets the weight 0."""
        if self.class_weights != MEDIAN_FREQUENCY:
            return None if self.class_weights is None else [float(weight) for weight in self.class_weights]
        import numpy as np

        from fcn.data.statistics import balancing_weights

        counts = class_counts()
        if not counts.any():
            raise ConfigError(
                f"loss.class_weights (={MEDIAN_FREQUENCY}) must have training masks with valid pixels; use null"
            )
        weights = balancing_weights(counts)
        if missing := np.flatnonzero(np.isnan(weights)).tolist():
            log.warning("classes without pixels in the training masks have the weight 0: %s", missing)
        return [float(weight) for weight in np.nan_to_num(weights)]


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

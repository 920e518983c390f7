"""Probabilities, cross-entropy and classes of pixels: the terms of the losses."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fcn.config import IGNORE_INDEX


def log_probabilities(logits: Tensor) -> Tensor:
    """Return the logarithm of the softmax over the classes, float32 (float64 for float64 logits) [N, C, H, W].

    bfloat16 cannot represent a sum over a million pixels; `log_softmax` with a dtype widens without a float32 copy of
    the logits if the device has such a kernel.
    """
    return F.log_softmax(logits, dim=1, dtype=torch.promote_types(logits.dtype, torch.float32))


def pixel_losses(log_probability: Tensor, target: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the cross-entropy of every pixel, [N, H, W]; 0 for void.

    Summing this map, unlike torch's reduction="sum", is deterministic on a GPU.

    Args:
        log_probability: return value of `log_probabilities`.
        target: [N, H, W], a class or 255 for void.
        weights: factor of the pixels of each class, [C].
    """
    # torch's kernel for images accepts int64 targets only.
    return F.nll_loss(log_probability, target.long(), weights, ignore_index=IGNORE_INDEX, reduction="none")


def num_pixels(target: Tensor) -> Tensor:
    """Return the number of non-void pixels of each image, int64 [N]."""
    return (target != IGNORE_INDEX).sum(dim=(1, 2))


def class_masks(target: Tensor, num_classes: int) -> Tensor:
    """Return which pixels belong to each class, bool [N, C, H, W]; void belongs to none."""
    return target.unsqueeze(1) == torch.arange(num_classes, device=target.device).view(-1, 1, 1)


def void_as_background(mask: Tensor) -> Tensor:
    """Return the mask as the d2l chapter reads it: its loader maps every unknown colour, such as void, to class 0."""
    return torch.where(mask == IGNORE_INDEX, torch.zeros_like(mask), mask)

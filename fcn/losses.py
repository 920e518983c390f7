"""Per-pixel cross-entropy over the pixels that are not void, in three normalisations."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from fcn.config import IGNORE_INDEX, Reduction


def cross_entropy(logits: Tensor, target: Tensor, reduction: Reduction) -> tuple[Tensor, Tensor]:
    """Numerator and divisor of the loss, apart so that several processes can share one step exactly.

    The loss of a step is `numerator / divisor.clamp(min=1)`, where both are first summed over the processes
    if `reduction` is pixel_mean, and only the numerator for the sums, whose divisor is 1. Void pixels give
    neither loss nor gradient: an all-void image, or batch, gives exactly 0.

    | reduction  | numerator                                                | divisor                   |
    |------------|----------------------------------------------------------|---------------------------|
    | pixel_mean | sum over the non-void pixels                             | number of non-void pixels |
    | image_sum  | sum over the images of the mean of their non-void pixels | 1                         |
    | pixel_sum  | sum over the non-void pixels                             | 1                         |

    `image_sum` is the loss of d2l's FCN chapter, which has no void; `pixel_sum` is the unnormalised loss of
    Long et al. 2015.

    Args:
        logits: float [N, C, H, W]. Half-precision logits are normalised and summed in float32.
        target: uint8 or int64 [N, H, W], a class in [0, C) or 255 for void.
        reduction: the normalisation.

    Returns:
        The numerator, a float32 scalar (float64 for float64 logits) with gradient; the divisor, an int64
        scalar.

    Raises:
        IndexError: from torch, on the CPU, if a pixel of `target` is neither a class nor void.
    """
    pixel_loss = _pixel_loss(logits, target)
    one = torch.ones((), dtype=torch.int64, device=logits.device)
    if reduction is Reduction.pixel_sum:
        return pixel_loss.sum(), one
    num_pixels = (target != IGNORE_INDEX).sum(dim=(1, 2))
    if reduction is Reduction.pixel_mean:
        return pixel_loss.sum(), num_pixels.sum()
    return (pixel_loss.sum(dim=(1, 2)) / num_pixels.clamp(min=1)).sum(), one


def _pixel_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross-entropy of every pixel, [N, H, W], 0 where it is void.

    `F.cross_entropy` would answer in the dtype of the logits, and a sum over a million pixels does not fit
    bfloat16; `log_softmax` with a dtype widens without a float32 copy of the logits where the device has
    such a kernel. The map costs 1/C of the logits and no time, and its sum, unlike torch's reduction="sum",
    is deterministic on a GPU.
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    log_probabilities = F.log_softmax(logits, dim=1, dtype=dtype)
    # torch's kernel for images takes int64 targets only.
    return F.nll_loss(log_probabilities, target.long(), ignore_index=IGNORE_INDEX, reduction="none")


def comparable_lr(lr: float, reduction: Reduction, *, batch_size: int, crop_size: Sequence[int]) -> float:
    """Learning rate that makes the same step on `pixel_mean` as `lr` does on `reduction` without void.

    The chapter's 1e-3 on `image_sum` at batch 32 acts like 0.032; the paper's 1e-10 on `pixel_sum`, at
    batch 1 and 500 x 500 pixels, like 2.5e-5.

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

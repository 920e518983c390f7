"""Per-pixel cross-entropy over the non-void pixels, in three normalisations."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from fcn.config import IGNORE_INDEX
from fcn.config.choices import Reduction


def cross_entropy(logits: Tensor, target: Tensor, reduction: Reduction) -> tuple[Tensor, Tensor]:
    """Return numerator and count of the loss separately, so that parts and processes can share one step exactly.

    The reported loss is `numerator / count`, each summed over batches and processes first. Void pixels contribute
    neither loss nor gradient; if all pixels are void, the loss is exactly 0. The minimised loss is `step_loss`.

    | reduction  | numerator                                                | count                     |
    |------------|----------------------------------------------------------|---------------------------|
    | pixel_mean | sum over the non-void pixels                             | number of non-void pixels |
    | image_sum  | sum over the images of the mean of their non-void pixels | number of images          |
    | pixel_sum  | sum over the non-void pixels                             | number of non-void pixels |

    Sources: `image_sum` is the loss of the d2l chapter (section 14.11.4) if no pixel is void; the chapter has no void.
    `pixel_sum` is the unnormalised loss of Shelhamer et al. 2017, section 4.1.

    Args:
        logits: float [N, C, H, W]. Half-precision logits are normalised and summed in float32.
        target: uint8 or int64 [N, H, W], a class in [0, C) or 255 for void.
        reduction: the normalisation.

    Returns:
        The numerator, a float32 scalar (float64 for float64 logits) with gradient, and the count, an int64 scalar.

    Raises:
        IndexError: from torch, on the CPU, if a pixel of `target` is neither a class nor void.
    """
    pixel_loss = _pixel_loss(logits, target)
    if reduction is Reduction.image_sum:
        image_loss = pixel_loss.sum(dim=(1, 2)) / _num_pixels(target).clamp(min=1)
        return image_loss.sum(), count_of(target, reduction)
    return pixel_loss.sum(), count_of(target, reduction)


def count_of(target: Tensor, reduction: Reduction) -> Tensor:
    """Return the count of `cross_entropy`, an int64 scalar, without logits."""
    if reduction is Reduction.image_sum:
        return torch.full((), len(target), device=target.device)
    return _num_pixels(target).sum()


def _num_pixels(target: Tensor) -> Tensor:
    """Return the number of non-void pixels of each image, int64 [N]."""
    return (target != IGNORE_INDEX).sum(dim=(1, 2))


def step_loss(numerator: Tensor, count: Tensor, reduction: Reduction) -> Tensor:
    """Return the loss that a step minimises, given the sums over all processes; 0 if all pixels are void."""
    return numerator / count.clamp(min=1) if reduction is Reduction.pixel_mean else numerator


def _pixel_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Return the cross-entropy of every pixel, [N, H, W]; 0 for void.

    `F.cross_entropy` would return the dtype of the logits, and bfloat16 cannot represent a sum over a million pixels;
    `log_softmax` with a dtype widens without a float32 copy of the logits if the device has such a kernel. Summing this
    map, unlike torch's reduction="sum", is deterministic on a GPU.
    """
    dtype = torch.promote_types(logits.dtype, torch.float32)
    log_probabilities = F.log_softmax(logits, dim=1, dtype=dtype)
    # torch's kernel for images accepts int64 targets only.
    return F.nll_loss(log_probabilities, target.long(), ignore_index=IGNORE_INDEX, reduction="none")


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

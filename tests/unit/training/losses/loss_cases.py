"""Losses and batches of the tests of all losses."""

import torch
from torch import Tensor

from fcn.config import IGNORE_INDEX
from fcn.config.choices import Reduction
from fcn.training.losses.base import Loss
from fcn.training.losses.cross_entropy import CrossEntropyLoss
from fcn.training.losses.cross_entropy_dice import CrossEntropyDiceLoss
from fcn.training.losses.dice import DiceLoss
from fcn.training.losses.focal import FocalLoss
from fcn.training.losses.lovasz import LovaszLoss
from fcn.training.losses.ohem import OhemLoss

NUM_CLASSES = 4
WEIGHTS = [0.2, 1.0, 3.0, 0.7]

LOSSES: dict[str, Loss] = {
    "pixel_mean": CrossEntropyLoss(),
    "image_sum": CrossEntropyLoss(Reduction.image_sum),
    "pixel_sum": CrossEntropyLoss(Reduction.pixel_sum),
    "weights": CrossEntropyLoss(class_weights=WEIGHTS),
    "weights_image_sum": CrossEntropyLoss(Reduction.image_sum, class_weights=WEIGHTS, label_smoothing=0.1),
    "weights_pixel_sum": CrossEntropyLoss(Reduction.pixel_sum, class_weights=WEIGHTS),
    "label_smoothing": CrossEntropyLoss(label_smoothing=0.2),
    "weights_label_smoothing": CrossEntropyLoss(class_weights=WEIGHTS, label_smoothing=0.2),
    "focal": FocalLoss(2.0),
    "focal_weights": FocalLoss(0.5, class_weights=WEIGHTS),
    "dice": DiceLoss(0.0),
    "dice_smooth": DiceLoss(1.0),
    "cross_entropy_dice": CrossEntropyDiceLoss(0.5, 0.0),
    "lovasz": LovaszLoss(),
    "ohem": OhemLoss(0.25),
    "ohem_all": OhemLoss(1.0),
}


def batch(
    seed: int, *, num_images: int = 3, void: tuple[float, ...] = (0.2, 0.0, 0.7), size: tuple[int, int] = (5, 6)
) -> tuple[Tensor, Tensor]:
    """Float64 logits and a uint8 mask; image i is void with probability void[i] at each pixel."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(num_images, NUM_CLASSES, *size, generator=generator, dtype=torch.float64)
    target = torch.randint(0, NUM_CLASSES, (num_images, *size), generator=generator, dtype=torch.uint8)
    share = torch.tensor(void[:num_images]).view(-1, 1, 1)
    target[torch.rand(target.shape, generator=generator) < share] = IGNORE_INDEX
    return logits.requires_grad_(), target


def loss_and_gradient(loss: Loss, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Minimised loss of a step, and its gradient."""
    value = loss.step_loss(loss.numerator(logits, target), loss.count(target))
    return value.detach(), torch.autograd.grad(value, logits)[0]

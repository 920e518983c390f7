"""Losses against other implementations and against their definitions, pixel by pixel."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.ops import sigmoid_focal_loss

from fcn.config import IGNORE_INDEX
from fcn.training.losses.base import Loss
from fcn.training.losses.cross_entropy_dice import CrossEntropyDiceLoss
from fcn.training.losses.dice import DiceLoss
from fcn.training.losses.focal import FocalLoss
from fcn.training.losses.lovasz import LovaszLoss
from fcn.training.losses.ohem import OhemLoss
from tests.unit.training.losses.loss_cases import WEIGHTS, batch, loss_and_gradient

SEEDS = st.integers(0, 10**6)
VOID = st.tuples(*[st.sampled_from([0.0, 0.5, 0.9, 1.0])] * 3)


def value(loss: Loss, logits, target) -> float:
    return loss_and_gradient(loss, logits, target)[0].item()


def probabilities(logits) -> np.ndarray:
    """Softmax over the classes, [N, C, H, W]."""
    scores = np.exp(logits.detach().numpy())
    return scores / scores.sum(axis=1, keepdims=True)


def pixels_of(target) -> list[list[tuple[int, int, int]]]:
    """Row, column and class of the non-void pixels of each image."""
    return [
        [(y, x, c) for (y, x), c in np.ndenumerate(mask) if c != IGNORE_INDEX] for mask in target.numpy().astype(int)
    ]


def mean_over_images(loss_of_image, logits, target) -> float:
    """Mean of `loss_of_image(probabilities [C, H, W], pixels)` over the images with valid pixels."""
    images = zip(probabilities(logits), pixels_of(target), strict=True)
    losses = [loss_of_image(p, pixels) for p, pixels in images if pixels]
    return sum(losses) / max(1, len(losses))


def dice_of_image(p, pixels, smooth=0.0) -> float:
    losses = []
    for number in {c for _, _, c in pixels}:
        overlap = sum(p[number, y, x] for y, x, c in pixels if c == number)
        predicted = sum(p[number, y, x] for y, x, _ in pixels)
        in_class = sum(c == number for _, _, c in pixels)
        losses.append(1 - (2 * overlap + smooth) / (predicted + in_class + smooth))
    return sum(losses) / len(losses)


def cross_entropies(p, pixels) -> list[float]:
    return [-math.log(p[c, y, x]) for y, x, c in pixels]


def jaccard_loss(wrong: set, in_class: set) -> float:
    """One minus IoU of the prediction that is wrong at the given pixels: equation 6 of Berman et al."""
    return len(wrong) / len(in_class | wrong)


def lovasz_of_image(p, pixels) -> float:
    losses = []
    for number in {c for _, _, c in pixels}:
        in_class = {(y, x) for y, x, c in pixels if c == number}
        errors = {(y, x): abs(((y, x) in in_class) - p[number, y, x]) for y, x, _ in pixels}
        order = sorted(errors, key=errors.get, reverse=True)
        steps = [jaccard_loss(set(order[: k + 1]), in_class) - jaccard_loss(set(order[:k]), in_class)
                 for k in range(len(order))]  # fmt: skip
        losses.append(sum(errors[pixel] * step for pixel, step in zip(order, steps, strict=True)))
    return sum(losses) / len(losses)


@given(seed=SEEDS, void=VOID)
@settings(max_examples=20)
@pytest.mark.parametrize("smooth", [0.0, 1.0])
def test_dice_follows_definition(smooth, seed, void):
    logits, target = batch(seed, void=void)
    expected = mean_over_images(lambda p, pixels: dice_of_image(p, pixels, smooth), logits, target)
    assert value(DiceLoss(smooth), logits, target) == pytest.approx(expected)


@given(seed=SEEDS, void=VOID)
@settings(max_examples=20)
def test_cross_entropy_dice_follows_definition(seed, void):
    logits, target = batch(seed, void=void)
    expected = mean_over_images(
        lambda p, pixels: np.mean(cross_entropies(p, pixels)) + 0.5 * dice_of_image(p, pixels), logits, target
    )
    assert value(CrossEntropyDiceLoss(0.5, 0.0), logits, target) == pytest.approx(expected)


@given(seed=SEEDS, void=VOID)
@settings(max_examples=20)
def test_lovasz_follows_definition(seed, void):
    logits, target = batch(seed, void=void)
    assert value(LovaszLoss(), logits, target) == pytest.approx(mean_over_images(lovasz_of_image, logits, target))


def test_lovasz_of_a_hard_prediction_is_jaccard_loss():
    # Class 1 has IoU 1/3 and class 0 has 1/3: two pixels are right and two wrong, of four.
    prediction, target = torch.tensor([[[0, 1, 0, 1]]]), torch.tensor([[[0, 1, 1, 0]]], dtype=torch.uint8)
    logits = 200.0 * F.one_hot(prediction, 2).permute(0, 3, 1, 2)
    assert value(LovaszLoss(), logits.requires_grad_(), target) == pytest.approx(2 / 3)


@given(seed=SEEDS, void=VOID, fraction=st.sampled_from([0.01, 0.1, 0.25, 0.5, 1.0]))
@settings(max_examples=30)
def test_ohem_follows_definition(seed, void, fraction):
    logits, target = batch(seed, void=void)
    losses, count = 0.0, 0
    for p, pixels in zip(probabilities(logits), pixels_of(target), strict=True):
        selected = math.ceil(fraction * len(pixels))
        losses += sum(sorted(cross_entropies(p, pixels), reverse=True)[:selected])
        count += selected
    loss = OhemLoss(fraction)
    assert loss.count(target).item() == count
    assert loss.numerator(logits, target).item() == pytest.approx(losses)


@given(seed=SEEDS, void=VOID, gamma=st.sampled_from([0.0, 0.5, 2.0, 5.0]))
@settings(max_examples=30)
@pytest.mark.parametrize("weights", [None, WEIGHTS])
def test_focal_follows_definition(weights, seed, void, gamma):
    logits, target = batch(seed, void=void)
    losses, count = 0.0, 0.0
    for p, pixels in zip(probabilities(logits), pixels_of(target), strict=True):
        for y, x, c in pixels:
            weight = weights[c] if weights else 1
            losses -= weight * (1 - p[c, y, x]) ** gamma * math.log(p[c, y, x])
            count += weight
    loss = FocalLoss(gamma, class_weights=weights)
    assert loss.count(target).item() == pytest.approx(count)
    assert loss.numerator(logits, target).item() == pytest.approx(losses)


def test_focal_of_two_classes_equals_torchvision():
    logits, target = batch(0, void=(0.0, 0.0, 0.0))
    logits, target = logits[:, :2], (target % 2).double()
    expected = sigmoid_focal_loss(logits[:, 1] - logits[:, 0], target, alpha=-1, gamma=2.0, reduction="mean")
    assert value(FocalLoss(2.0), logits, target.byte()) == pytest.approx(expected.item())


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_of_two_classes_equals_smp(gamma):
    smp = pytest.importorskip("segmentation_models_pytorch")
    logits, target = batch(0)
    logits, target = logits[:, :2], torch.where(target == IGNORE_INDEX, target, target % 2)
    reference = smp.losses.FocalLoss("binary", gamma=gamma, ignore_index=IGNORE_INDEX)
    expected = reference(logits[:, 1:] - logits[:, :1], target.double().unsqueeze(1))
    assert value(FocalLoss(gamma), logits, target) == pytest.approx(expected.item())


@pytest.mark.parametrize("smooth", [0.0, 1.0])
def test_dice_equals_smp(smooth):
    smp = pytest.importorskip("segmentation_models_pytorch")
    logits, target = batch(1, void=(0.2, 0.0, 0.6), size=(3, 3))
    images = []
    for image, mask in zip(logits, target, strict=True):
        present = sorted(set(mask.flatten().tolist()) - {IGNORE_INDEX})  # smp's mean is over all classes otherwise
        options = {"classes": present, "smooth": smooth / 2}  # smp adds it before the quotient is multiplied by 2
        reference = smp.losses.DiceLoss("multiclass", ignore_index=IGNORE_INDEX, **options)
        images.append(reference(image.unsqueeze(0), mask.unsqueeze(0).long()).item())
    assert value(DiceLoss(smooth), logits, target) == pytest.approx(np.mean(images))


def test_lovasz_and_its_gradient_equal_smp():
    smp = pytest.importorskip("segmentation_models_pytorch")
    logits, target = batch(2, size=(20, 30))
    logits = logits.detach().float().requires_grad_()  # smp computes in float32
    reference = smp.losses.LovaszLoss("multiclass", per_image=True, ignore_index=IGNORE_INDEX)
    expected = reference(logits, target.long())
    (expected_gradient,) = torch.autograd.grad(expected, logits)
    loss, gradient = loss_and_gradient(LovaszLoss(), logits, target)
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-3, atol=1e-7)

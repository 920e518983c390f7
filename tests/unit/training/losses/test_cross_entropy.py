"""Cross-entropy against torch and its definition."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fcn.config import IGNORE_INDEX
from fcn.config.choices import Reduction
from fcn.training.losses.cross_entropy import CrossEntropyLoss, comparable_lr
from tests.unit.training.losses.loss_cases import NUM_CLASSES, WEIGHTS, batch, loss_and_gradient

REDUCTIONS = list(Reduction)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def reference_loss(logits: Tensor, target: Tensor, reduction: Reduction, **options) -> Tensor:
    """Return the loss by its definition, from torch's loss of the valid pixels of each image."""
    each = list(zip(logits.permute(0, 2, 3, 1), target, strict=True))
    images = [(scores[mask != IGNORE_INDEX], mask[mask != IGNORE_INDEX].long()) for scores, mask in each]
    if reduction is Reduction.image_sum:
        losses = [F.cross_entropy(*image, **options) for image in images if len(image[1])]
        return sum(losses, logits.sum() * 0)
    scores, classes = (torch.cat(parts) for parts in zip(*images, strict=True))
    if len(classes) == 0:
        return logits.sum() * 0
    reduction_of_torch = "mean" if reduction is Reduction.pixel_mean else "sum"
    return F.cross_entropy(scores, classes, reduction=reduction_of_torch, **options)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("reduction", REDUCTIONS)
@given(seed=st.integers(0, 10**6), void=st.tuples(*[st.sampled_from([0.0, 0.1, 0.5, 0.95, 1.0])] * 3))
@settings(max_examples=10)
def test_loss_and_gradient_follow_torch_for_any_void(reduction, weights, label_smoothing, seed, void):
    logits, target = batch(seed, void=void)
    options = {
        "weight": None if weights is None else torch.tensor(weights, dtype=torch.float64),
        "label_smoothing": label_smoothing,
    }
    expected = reference_loss(logits, target, reduction, **options)
    (expected_gradient,) = torch.autograd.grad(expected, logits)
    loss = CrossEntropyLoss(reduction, class_weights=weights, label_smoothing=label_smoothing)
    value, gradient = loss_and_gradient(loss, logits, target)
    torch.testing.assert_close(value, expected.detach())
    torch.testing.assert_close(gradient, expected_gradient)


def test_image_sum_equals_d2l_loss_without_void():
    logits, target = batch(0, void=(0.0, 0.0, 0.0))
    expected = F.cross_entropy(logits, target.long(), reduction="none").mean(1).mean(1).sum()
    (expected_gradient,) = torch.autograd.grad(expected, logits)
    loss, gradient = loss_and_gradient(CrossEntropyLoss(Reduction.image_sum), logits, target)
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(gradient, expected_gradient)


@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.3}])
def test_pixel_mean_equals_torch_on_images(options):
    logits, target = batch(1)
    weight = torch.tensor(WEIGHTS, dtype=torch.float64)
    expected = F.cross_entropy(logits, target.long(), weight, ignore_index=IGNORE_INDEX, **options)
    loss, _ = loss_and_gradient(CrossEntropyLoss(class_weights=WEIGHTS, **options), logits, target)
    torch.testing.assert_close(loss, expected.detach())


def test_numerator_and_count_by_hand():
    # Two classes at equal logits: every pixel costs log 2. Image 0 counts 1 of 2 pixels, image 1 both.
    logits = torch.zeros(2, 2, 1, 2)
    target = torch.tensor([[[0, 255]], [[1, 0]]], dtype=torch.uint8)
    log2 = math.log(2)
    expected = {"pixel_mean": (3 * log2, 3), "image_sum": (2 * log2, 2), "pixel_sum": (3 * log2, 3)}
    for name, (numerator, count) in expected.items():
        loss = CrossEntropyLoss(Reduction(name))
        assert loss.numerator(logits, target).item() == pytest.approx(numerator)
        assert loss.count(target).item() == count
    weighted = CrossEntropyLoss(class_weights=[0.5, 0.25])
    assert weighted.numerator(logits, target).item() == pytest.approx(1.25 * log2)
    assert weighted.count(target).item() == 1.25


def test_counts_without_weights_are_integers():
    for reduction in REDUCTIONS:
        assert CrossEntropyLoss(reduction).count(batch(0)[1]).dtype == torch.int64


def test_pixels_of_weight_zero_have_no_influence():
    logits, target = batch(1)
    loss = CrossEntropyLoss(class_weights=[0.0, 1.0, 1.0, 1.0])
    value, gradient = loss_and_gradient(loss, logits, target)
    without = target.masked_fill(target == 0, IGNORE_INDEX)
    expected, expected_gradient = loss_and_gradient(CrossEntropyLoss(), logits, without)
    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(gradient, expected_gradient)
    only_zero = torch.zeros_like(target)
    assert loss_and_gradient(loss, logits, only_zero)[0] == 0


def test_reported_loss_is_mean_per_pixel_or_image():
    logits, target = batch(6, void=(0.0, 0.0, 0.0))
    mean = F.cross_entropy(logits, target.long()).item()
    for reduction in REDUCTIONS:
        loss = CrossEntropyLoss(reduction)
        assert (loss.numerator(logits, target) / loss.count(target)).item() == pytest.approx(mean)


def test_validation_reports_pixel_mean_with_same_weights():
    logits, target = batch(6)
    loss = CrossEntropyLoss(Reduction.image_sum, class_weights=WEIGHTS, label_smoothing=0.1).for_validation()
    expected = CrossEntropyLoss(class_weights=WEIGHTS, label_smoothing=0.1)
    assert torch.equal(loss.numerator(logits, target), expected.numerator(logits, target))
    assert torch.equal(loss.count(target), expected.count(target))


def test_invalid_mask_value_is_an_error():
    logits, target = batch(0, void=(0.0, 0.0, 0.0))
    target[0, 0, 0] = NUM_CLASSES
    with pytest.raises(IndexError, match=f"Target {NUM_CLASSES} is out of bounds"):
        CrossEntropyLoss().numerator(logits, target)


def test_comparable_lr_of_d2l_and_paper():
    assert comparable_lr(1e-3, Reduction.image_sum, batch_size=32, crop_size=[320, 480]) == pytest.approx(0.032)
    assert comparable_lr(0.05, Reduction.pixel_mean, batch_size=32, crop_size=[320, 480]) == 0.05
    assert comparable_lr(1e-10, Reduction.pixel_sum, batch_size=1, crop_size=[500, 500]) == pytest.approx(2.5e-5)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_comparable_lr_gives_same_step(reduction):
    logits, target = batch(4, void=(0.0, 0.0, 0.0))
    _, gradient = loss_and_gradient(CrossEntropyLoss(reduction), logits, target)
    _, mean_gradient = loss_and_gradient(CrossEntropyLoss(), logits, target)
    comparable = comparable_lr(0.1, reduction, batch_size=3, crop_size=(5, 6))
    torch.testing.assert_close(0.1 * gradient, comparable * mean_gradient)

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fcn.config import IGNORE_INDEX
from fcn.config.choices import Reduction
from fcn.training.losses import comparable_lr, cross_entropy, step_loss

NUM_CLASSES = 4
REDUCTIONS = list(Reduction)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def batch(seed: int, *, num_images: int = 3, void: tuple[float, ...] = (0.2, 0.0, 0.7)) -> tuple[Tensor, Tensor]:
    """Float64 logits and a uint8 mask; image i is void with probability void[i] at each pixel."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(num_images, NUM_CLASSES, 5, 6, generator=generator, dtype=torch.float64)
    target = torch.randint(0, NUM_CLASSES, (num_images, 5, 6), generator=generator, dtype=torch.uint8)
    share = torch.tensor(void[:num_images]).view(-1, 1, 1)
    target[torch.rand(target.shape, generator=generator) < share] = IGNORE_INDEX
    return logits.requires_grad_(), target


def reference_loss(logits: Tensor, target: Tensor, reduction: Reduction) -> Tensor:
    """Return the loss by its definition, image by image."""
    image_losses = []
    for image_logits, image_target in zip(logits, target, strict=True):
        valid = image_target != IGNORE_INDEX
        pixels = image_logits.permute(1, 2, 0)[valid]
        image_losses.append(F.cross_entropy(pixels, image_target[valid].long(), reduction="none"))
    zero = logits.sum() * 0
    if reduction is Reduction.image_sum:
        return sum((loss.mean() for loss in image_losses if loss.numel()), zero)
    total = torch.cat(image_losses).sum() + zero
    return total / max(1, torch.cat(image_losses).numel()) if reduction is Reduction.pixel_mean else total


def loss_and_gradient(logits: Tensor, target: Tensor, reduction: Reduction) -> tuple[Tensor, Tensor]:
    loss = step_loss(*cross_entropy(logits, target, reduction), reduction)
    return loss.detach(), torch.autograd.grad(loss, logits)[0]


@pytest.mark.parametrize("reduction", REDUCTIONS)
@given(seed=st.integers(0, 10**6), void=st.tuples(*[st.sampled_from([0.0, 0.1, 0.5, 0.95, 1.0])] * 3))
@settings(max_examples=25, deadline=None)
def test_loss_and_gradient_follow_definition_for_any_void(reduction, seed, void):
    logits, target = batch(seed, void=void)
    expected = reference_loss(logits, target, reduction)
    (expected_gradient,) = torch.autograd.grad(expected, logits)
    loss, gradient = loss_and_gradient(logits, target, reduction)
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(gradient, expected_gradient)


def test_image_sum_equals_d2l_loss_without_void():
    logits, target = batch(0, void=(0.0, 0.0, 0.0))
    expected = F.cross_entropy(logits, target.long(), reduction="none").mean(1).mean(1).sum()
    (expected_gradient,) = torch.autograd.grad(expected, logits)
    loss, gradient = loss_and_gradient(logits, target, Reduction.image_sum)
    torch.testing.assert_close(loss, expected.detach())
    torch.testing.assert_close(gradient, expected_gradient)


def test_pixel_mean_equals_torch():
    logits, target = batch(1)
    expected = F.cross_entropy(logits, target.long(), ignore_index=IGNORE_INDEX)
    loss, _ = loss_and_gradient(logits, target, Reduction.pixel_mean)
    torch.testing.assert_close(loss, expected.detach())


def test_numerator_and_count_by_hand():
    # Two classes at equal logits: every pixel costs log 2. Image 0 counts 1 of 2 pixels, image 1 both.
    logits = torch.zeros(2, 2, 1, 2)
    target = torch.tensor([[[0, 255]], [[1, 0]]], dtype=torch.uint8)
    log2 = math.log(2)
    expected = {"pixel_mean": (3 * log2, 3), "image_sum": (2 * log2, 2), "pixel_sum": (3 * log2, 3)}
    for name, (numerator, count) in expected.items():
        result = cross_entropy(logits, target, Reduction(name))
        assert result[0].item() == pytest.approx(numerator)
        assert result[1].item() == count


@pytest.mark.parametrize("reduction", REDUCTIONS)
@given(seed=st.integers(0, 10**6), cut=st.integers(1, 2))
@settings(max_examples=10, deadline=None)
def test_step_of_two_processes_equals_step_of_whole_batch(reduction, seed, cut):
    # Unequal numbers of images and of void pixels: an average of the processes' losses would be wrong.
    logits, target = batch(seed, void=(0.9, 0.0, 0.4))
    loss, gradient = loss_and_gradient(logits, target, reduction)
    shares = [cross_entropy(logits[part], target[part], reduction) for part in (slice(None, cut), slice(cut, None))]
    numerator = shares[0][0] + shares[1][0]
    shared = step_loss(numerator, shares[0][1] + shares[1][1], reduction)
    torch.testing.assert_close(shared.detach(), loss)
    torch.testing.assert_close(torch.autograd.grad(shared, logits)[0], gradient)


def test_reported_loss_is_mean_per_pixel_or_image():
    logits, target = batch(6, void=(0.0, 0.0, 0.0))
    mean = F.cross_entropy(logits, target.long()).item()
    for reduction in REDUCTIONS:
        numerator, count = cross_entropy(logits, target, reduction)
        assert (numerator / count).item() == pytest.approx(mean)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_all_void_batch_has_zero_loss_and_gradient(reduction):
    logits, target = batch(0, void=(1.0, 1.0, 1.0))
    loss, gradient = loss_and_gradient(logits, target, reduction)
    assert loss.item() == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_all_void_image_contributes_nothing(reduction):
    logits, target = batch(0, void=(0.3, 1.0, 0.0))
    with_void, gradient = loss_and_gradient(logits, target, reduction)
    without, _ = loss_and_gradient(logits[[0, 2]], target[[0, 2]], reduction)
    torch.testing.assert_close(with_void, without)
    assert not gradient[1].any()


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_uint8_and_int64_masks_agree(reduction):
    logits, target = batch(2)
    of_uint8 = loss_and_gradient(logits, target, reduction)
    of_int64 = loss_and_gradient(logits, target.long(), reduction)
    assert torch.equal(of_uint8[0], of_int64[0])
    assert torch.equal(of_uint8[1], of_int64[1])


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_summed_in_float32(dtype, reduction):
    # 40,000 pixels of about 1.4: float16 ends at 65504, bfloat16 has 8 bits for the sum.
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, NUM_CLASSES, 100, 200, generator=generator).to(dtype).requires_grad_()
    target = torch.randint(0, NUM_CLASSES, (2, 100, 200), generator=generator, dtype=torch.uint8)
    numerator, count = cross_entropy(logits, target, reduction)
    exact, _ = cross_entropy(logits.double(), target, reduction)
    assert numerator.dtype == torch.float32
    assert numerator.item() == pytest.approx(exact.item(), rel=1e-6)
    step_loss(numerator, count, reduction).backward()
    assert logits.grad.dtype == dtype


def test_autocast_keeps_float32_loss():
    logits, target = batch(3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        numerator, _ = cross_entropy(logits.float(), target, Reduction.pixel_sum)
    assert numerator.dtype == torch.float32
    exact = reference_loss(logits, target, Reduction.pixel_sum)
    assert numerator.item() == pytest.approx(exact.item(), rel=1e-6)


def test_invalid_mask_value_is_an_error():
    logits, target = batch(0, void=(0.0, 0.0, 0.0))
    target[0, 0, 0] = NUM_CLASSES
    with pytest.raises(IndexError, match=f"Target {NUM_CLASSES} is out of bounds"):
        cross_entropy(logits, target, Reduction.pixel_mean)


def test_comparable_lr_of_d2l_and_paper():
    assert comparable_lr(1e-3, Reduction.image_sum, batch_size=32, crop_size=[320, 480]) == pytest.approx(0.032)
    assert comparable_lr(0.05, Reduction.pixel_mean, batch_size=32, crop_size=[320, 480]) == 0.05
    assert comparable_lr(1e-10, Reduction.pixel_sum, batch_size=1, crop_size=[500, 500]) == pytest.approx(2.5e-5)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_comparable_lr_gives_same_step(reduction):
    logits, target = batch(4, void=(0.0, 0.0, 0.0))
    _, gradient = loss_and_gradient(logits, target, reduction)
    _, mean_gradient = loss_and_gradient(logits, target, Reduction.pixel_mean)
    comparable = comparable_lr(0.1, reduction, batch_size=3, crop_size=(5, 6))
    torch.testing.assert_close(0.1 * gradient, comparable * mean_gradient)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_gpu_loss_and_gradient_are_deterministic(reduction):
    logits, target = batch(5)
    expected = loss_and_gradient(logits, target, reduction)
    on_gpu = logits.detach().cuda().requires_grad_()
    torch.use_deterministic_algorithms(True)
    try:
        result = loss_and_gradient(on_gpu, target.cuda(), reduction)
    finally:
        torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(result[0].cpu(), expected[0])
    torch.testing.assert_close(result[1].cpu(), expected[1])

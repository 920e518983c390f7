"""Properties that every loss has."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fcn.config import IGNORE_INDEX
from tests.unit.training.losses.loss_cases import LOSSES, NUM_CLASSES, batch, loss_and_gradient

VOID = st.tuples(*[st.sampled_from([0.0, 0.1, 0.5, 0.95, 1.0])] * 3)
EVERY_LOSS = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@EVERY_LOSS
@given(seed=st.integers(0, 10**6), void=VOID)
@settings(max_examples=15)
def test_void_pixels_have_no_influence(loss, seed, void):
    logits, target = batch(seed, void=void)
    is_void = (target == IGNORE_INDEX).unsqueeze(1).expand_as(logits)
    value, gradient = loss_and_gradient(loss, logits, target)
    assert not gradient[is_void].any()
    changed = torch.where(is_void, 7 * logits.flip(3) - 2, logits).detach().requires_grad_()
    other_value, other_gradient = loss_and_gradient(loss, changed, target)
    assert torch.equal(other_value, value)
    assert torch.equal(other_gradient, gradient)


@EVERY_LOSS
@given(seed=st.integers(0, 10**6), void=VOID, cut=st.integers(1, 2))
@settings(max_examples=15)
def test_step_of_two_processes_equals_step_of_whole_batch(loss, seed, void, cut):
    # Unequal numbers of images and of void pixels: an average of the processes' losses would be wrong.
    logits, target = batch(seed, void=void)
    value, gradient = loss_and_gradient(loss, logits, target)
    shares = [(logits[part], target[part]) for part in (slice(None, cut), slice(cut, None))]
    count = sum(loss.count(share) for _, share in shares)
    torch.testing.assert_close(count, loss.count(target))
    shared = sum(loss.step_loss(loss.numerator(*share), count) for share in shares)
    torch.testing.assert_close(shared.detach(), value)
    torch.testing.assert_close(torch.autograd.grad(shared, logits)[0], gradient)


@EVERY_LOSS
def test_order_of_images_does_not_matter(loss):
    logits, target = batch(3)
    value, gradient = loss_and_gradient(loss, logits, target)
    order = [2, 0, 1]
    permuted = logits[order].detach().requires_grad_()
    other_value, other_gradient = loss_and_gradient(loss, permuted, target[order])
    torch.testing.assert_close(other_value, value)
    torch.testing.assert_close(other_gradient, gradient[order])


@EVERY_LOSS
@pytest.mark.parametrize("size", [(5, 6), (1, 1)])
def test_all_void_batch_has_zero_loss_and_gradient(loss, size):
    logits, target = batch(0, void=(1.0, 1.0, 1.0), size=size)
    value, gradient = loss_and_gradient(loss, logits, target)
    assert value.item() == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))


@EVERY_LOSS
def test_all_void_image_contributes_nothing(loss):
    logits, target = batch(0, void=(0.3, 1.0, 0.0))
    with_void, gradient = loss_and_gradient(loss, logits, target)
    without, _ = loss_and_gradient(loss, logits[[0, 2]], target[[0, 2]])
    torch.testing.assert_close(with_void, without)
    assert not gradient[1].any()


@EVERY_LOSS
def test_validation_loss_is_zero_for_void_and_a_mean_otherwise(loss):
    logits, target = batch(1)
    validation = loss.for_validation()
    assert validation.averages
    value, _ = loss_and_gradient(validation, logits, target)
    assert 0 < value < 10
    assert loss_and_gradient(validation, logits, torch.full_like(target, IGNORE_INDEX))[0] == 0


@EVERY_LOSS
def test_gradient_equals_finite_differences(loss):
    logits, target = batch(2, size=(2, 3))
    step = lambda logits: loss.step_loss(loss.numerator(logits, target), loss.count(target))  # noqa: E731
    assert torch.autograd.gradcheck(step, logits)


@EVERY_LOSS
@pytest.mark.parametrize("scale", [1e4, 1e-4])
def test_extreme_logits_have_finite_loss_and_gradient(loss, scale):
    # At 1e4 every probability is 0 or 1: right and wrong pixels, and classes without any probability.
    logits, target = batch(4)
    for values in (logits.float(), torch.where(target.unsqueeze(1) == 0, 1.0, 0.0).expand_as(logits)):
        scaled = (scale * values).detach().requires_grad_()
        value, gradient = loss_and_gradient(loss, scaled, target)
        assert value.isfinite()
        assert gradient.isfinite().all()


@pytest.mark.parametrize("name", [name for name in LOSSES if "smoothing" not in name and name != "weights_image_sum"])
def test_perfect_prediction_has_no_loss(name):
    loss, (_, target) = LOSSES[name], batch(5)
    logits = 100.0 * (target.unsqueeze(1) == torch.arange(NUM_CLASSES).view(-1, 1, 1))
    assert (loss.numerator(logits, target) / loss.count(target)).item() == pytest.approx(0, abs=1e-6)


@EVERY_LOSS
def test_uint8_and_int64_masks_agree(loss):
    logits, target = batch(2)
    of_uint8, of_int64 = (loss_and_gradient(loss, logits, mask) for mask in (target, target.long()))
    assert torch.equal(of_uint8[0], of_int64[0])
    assert torch.equal(of_uint8[1], of_int64[1])


@EVERY_LOSS
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_summed_in_float32(loss, dtype):
    # 40,000 pixels of about 1.4: float16 ends at 65504, bfloat16 has 8 bits for the sum.
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, NUM_CLASSES, 100, 200, generator=generator).to(dtype).requires_grad_()
    target = torch.randint(0, NUM_CLASSES, (2, 100, 200), generator=generator, dtype=torch.uint8)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # a training step computes its loss under autocast
        numerator = loss.numerator(logits, target)
    exact = loss.numerator(logits.double(), target)
    assert (numerator.dtype, exact.dtype) == (torch.float32, torch.float64)
    assert numerator.item() == pytest.approx(exact.item(), rel=2e-6)
    loss.step_loss(numerator, loss.count(target)).backward()
    assert logits.grad.dtype == dtype


@EVERY_LOSS
def test_count_of_more_than_255_images(loss):
    target = torch.zeros(300, 1, 2, dtype=torch.uint8)
    count = loss.count(target)
    assert count.dtype in (torch.int64, torch.float64)
    assert count.item() == pytest.approx(sum(loss.count(image).item() for image in target.split(100)))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@EVERY_LOSS
def test_gpu_loss_and_gradient_are_deterministic(loss):
    logits, target = batch(5)
    expected = loss_and_gradient(loss, logits, target)
    on_gpu = logits.detach().cuda().requires_grad_()
    torch.use_deterministic_algorithms(True)
    try:
        result = loss_and_gradient(loss, on_gpu, target.cuda())
    finally:
        torch.use_deterministic_algorithms(False)
    torch.testing.assert_close(result[0].cpu(), expected[0])
    torch.testing.assert_close(result[1].cpu(), expected[1])

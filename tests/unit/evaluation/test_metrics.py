"""Confusion matrix and scores: the definitions of Long et al. 2015, exact counts, precision, saved state."""

import io
import itertools
import math
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_lightning import LightningModule
from pytorch_lightning.plugins.precision import HalfPrecision
from torch import Tensor, nn
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassJaccardIndex,
)

from fcn.config import IGNORE_INDEX
from fcn.evaluation.metrics import (
    SegmentationMetrics,
    _count_in_lanes,
    confusion_matrix,
    segmentation_scores,
)
from fcn.evaluation.scores import class_counts, mean_iou
from fcn.models.network import predicted_classes
from fcn.training.losses.cross_entropy import CrossEntropyLoss

NUM_CLASSES = 4
VOID = IGNORE_INDEX


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def uint8(values: list) -> Tensor:
    return torch.tensor(values, dtype=torch.uint8)


def random_pair(
    seed: int, *, num_images: int = 4, num_classes: int = NUM_CLASSES, void: float = 0.2
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (num_images, 7, 9)
    target = torch.randint(0, num_classes, shape, generator=generator, dtype=torch.uint8)
    guess = torch.randint(0, num_classes, shape, generator=generator)
    prediction = torch.where(torch.rand(shape, generator=generator) < 0.6, target.long(), guess)
    target[torch.rand(shape, generator=generator) < void] = VOID
    return prediction, target


def reference_scores(prediction: np.ndarray, target: np.ndarray, num_classes: int) -> dict[str, float]:
    """Return the scores of section 5 of the paper, counted pixel by pixel in Python numbers."""
    n = [[0] * num_classes for _ in range(num_classes)]
    for i, j in zip(target.ravel().tolist(), prediction.ravel().tolist(), strict=True):
        if i != VOID:
            n[i][j] += 1
    t = [sum(row) for row in n]
    predicted = [sum(row[i] for row in n) for i in range(num_classes)]
    if sum(t) == 0:
        return dict.fromkeys(("pixel_accuracy", "mean_accuracy", "mean_iou", "fw_iou"), math.nan)
    iou = {i: n[i][i] / (t[i] + predicted[i] - n[i][i]) for i in range(num_classes) if t[i] + predicted[i]}
    accuracy = [n[i][i] / t[i] for i in range(num_classes) if t[i]]
    return {
        "pixel_accuracy": sum(n[i][i] for i in range(num_classes)) / sum(t),
        "mean_accuracy": sum(accuracy) / len(accuracy),
        "mean_iou": sum(iou.values()) / len(iou),
        "fw_iou": sum(t[i] * iou[i] for i in iou) / sum(t),
    }


def count(prediction: Tensor, target: Tensor, num_classes: int = NUM_CLASSES) -> SegmentationMetrics:
    metric = SegmentationMetrics(num_classes)
    metric.update(prediction, target)
    return metric


def assert_scores(result: dict[str, float], expected: dict[str, float]) -> None:
    for name, value in expected.items():
        assert result[name] == pytest.approx(value, rel=1e-12, nan_ok=True), name


HAND_MADE = {
    # confusion [[2, 1], [0, 1]], accuracy 2/3 and 1, IoU 2/3 and 1/2
    "two classes": (
        [0, 0, 0, 1],
        [0, 0, 1, 1],
        [[2, 1], [0, 1]],
        (3 / 4, (2 / 3 + 1) / 2, (2 / 3 + 1 / 2) / 2, (3 * (2 / 3) + 1 * (1 / 2)) / 4),
    ),
    # Accuracy 1/2, 1/2, 1; IoU 1/2, 1/(2+2-1), 1/(1+2-1); if void were counted, the union of class 2 would be 3.
    "void": (
        [0, 0, 1, 1, 2, VOID, VOID],
        [0, 1, 1, 2, 2, 2, 0],
        [[1, 1, 0], [0, 1, 1], [0, 0, 1]],
        (3 / 5, 2 / 3, (1 / 2 + 1 / 3 + 1 / 2) / 3, (2 * (1 / 2) + 2 * (1 / 3) + 1 * (1 / 2)) / 5),
    ),
    # Class 1 is only predicted: IoU 0, no accuracy. Class 2 is in neither: no IoU, no accuracy.
    "missing classes": (
        [0, 0, 0, 0],
        [0, 0, 0, 1],
        [[3, 1, 0], [0, 0, 0], [0, 0, 0]],
        (3 / 4, 3 / 4, (3 / 4 + 0) / 2, 3 / 4),
    ),
}


@pytest.mark.parametrize("case", HAND_MADE)
def test_scores_of_hand_made_cases(case):
    target, prediction, confusion, expected = HAND_MADE[case]
    metric = count(uint8([prediction]), uint8([target]), num_classes=len(confusion))
    assert metric.confusion.tolist() == confusion
    scores = metric.compute()
    names = ("pixel_accuracy", "mean_accuracy", "mean_iou", "fw_iou")
    assert_scores(scores, dict(zip(names, expected, strict=True)))
    assert all(type(value) is float for value in scores.values())


def test_class_without_pixels_has_no_iou():
    iou = class_counts(np.array(HAND_MADE["missing classes"][2])).iou()
    np.testing.assert_array_equal(iou, [0.75, 0.0, np.nan])
    assert mean_iou(iou) == (3 / 4 + 0) / 2


def test_all_void_gives_nan():
    metric = count(uint8([[0, 1]]), uint8([[VOID, VOID]]))
    assert not metric.confusion.any()
    assert set(metric.compute()) == {"loss", "pixel_accuracy", "mean_accuracy", "mean_iou", "fw_iou"}
    assert all(math.isnan(value) for value in metric.compute().values())
    assert np.isnan(class_counts(metric.confusion.numpy()).iou()).all()


def test_scores_are_divided_in_float64():
    # 2^25 + 1 and 2^26 pixels: in float32 both accuracies would be exactly 1/2.
    confusion = torch.tensor([[2**25 + 1, 2**25], [2**26, 2**26 - 1]])
    assert segmentation_scores(confusion)["mean_accuracy"] == pytest.approx(
        ((2**25 + 1) / (2**26 + 1) + (2**26 - 1) / (2**27 - 1)) / 2, rel=1e-15
    )


@given(
    seed=st.integers(0, 10**6),
    num_classes=st.sampled_from([1, 2, 3, 21, 255]),
    void=st.sampled_from([0.0, 0.3, 0.98, 1.0]),
)
@settings(max_examples=40, deadline=None)
def test_scores_follow_the_paper(seed, num_classes, void):
    prediction, target = random_pair(seed, num_images=1, num_classes=num_classes, void=void)
    result = count(prediction, target, num_classes).compute()
    assert_scores(result, reference_scores(prediction.numpy(), target.numpy(), num_classes))


@given(seed=st.integers(0, 10**6))
@settings(max_examples=10, deadline=None)
def test_scores_agree_with_torchmetrics(seed):
    prediction, target = random_pair(seed)
    metric = count(prediction, target)
    options = {"num_classes": NUM_CLASSES, "ignore_index": VOID}
    assert torch.equal(metric.confusion, MulticlassConfusionMatrix(**options)(prediction, target))
    expected = {
        "pixel_accuracy": MulticlassAccuracy(average="micro", **options)(prediction, target),
        "mean_accuracy": MulticlassAccuracy(average="macro", **options)(prediction, target),
        "mean_iou": MulticlassJaccardIndex(average="macro", **options)(prediction, target),
        "fw_iou": MulticlassJaccardIndex(average="weighted", **options)(prediction, target),
    }
    result = metric.compute()
    for name, value in expected.items():
        assert result[name] == pytest.approx(value.item(), rel=1e-5), name


@given(seed=st.integers(0, 10**6), sizes=st.permutations([1, 1, 2, 3]))
@settings(max_examples=15, deadline=None)
def test_counts_do_not_depend_on_order_and_batches(seed, sizes):
    prediction, target = random_pair(seed, num_images=7)
    order = random.Random(seed).sample(range(7), 7)
    metric = SegmentationMetrics(NUM_CLASSES)
    ends = list(itertools.accumulate(sizes))
    for start, end in zip([0, *ends], ends, strict=False):
        metric.update(prediction[order[start:end]], target[order[start:end]])
    assert torch.equal(metric.confusion, count(prediction, target).confusion)


def test_images_without_a_batch_axis_are_counted():
    prediction, target = random_pair(0)
    metric = SegmentationMetrics(NUM_CLASSES)
    for image, mask in zip(prediction, target, strict=True):
        metric.update(image, mask)
    assert torch.equal(metric.confusion, count(prediction, target).confusion)


def test_merged_states_of_two_processes_equal_one_process():
    prediction, target = random_pair(1, num_images=5)
    logits = torch.randn(5, NUM_CLASSES, 7, 9, generator=torch.Generator().manual_seed(1)).double()
    whole, *parts = (SegmentationMetrics(NUM_CLASSES) for _ in range(3))
    function = CrossEntropyLoss()
    for metric, images in ((whole, slice(None)), (parts[0], slice(0, 2)), (parts[1], slice(2, None))):
        loss = function.numerator(logits[images], target[images]), function.count(target[images])
        metric.update(prediction[images], target[images], loss=loss)
    parts[0].merge_state(parts[1])
    assert torch.equal(parts[0].confusion, whole.confusion)
    assert_scores(parts[0].compute(), whole.compute())


def test_loss_is_the_sum_of_numerators_over_the_sum_of_divisors():
    metric = SegmentationMetrics(2)
    image = uint8([[0, 1]])
    for numerator, divisor in ((6.0, 1), (2.0, 3), (0.0, 0)):
        loss = (torch.tensor(numerator, requires_grad=True), torch.tensor(divisor))
        metric.update(image, image, loss=loss)
    assert metric.compute()["loss"] == 2.0  # not the mean of the batches' 6, 2/3 and 0/0
    assert not metric.loss_sum.requires_grad


def test_loss_is_summed_in_float64():
    metric = SegmentationMetrics(2)
    metric.loss_sum += 2.0**30
    metric.update(uint8([[0]]), uint8([[0]]), loss=(torch.tensor(1.0), torch.tensor(1)))
    assert metric.loss_sum.item() == 2.0**30 + 1  # would be rounded to 2^30 in float32


def test_logits_instead_of_classes_are_rejected():
    _, target = random_pair(0)
    message = r"prediction.shape \(=\(4, 4, 7, 9\)\) must equal target.shape \(=\(4, 7, 9\)\); give classes"
    with pytest.raises(ValueError, match=message):
        confusion_matrix(torch.zeros(4, NUM_CLASSES, 7, 9), target, num_classes=NUM_CLASSES)
    with pytest.raises(ValueError, match=r"must equal target\.shape"):
        SegmentationMetrics(NUM_CLASSES).update(torch.zeros(4, 9, 7), target)


@pytest.mark.parametrize("num_pixels", [0, 1, 63, 64, 65, 5000])
def test_counting_in_lanes_equals_numpy(num_pixels):
    cells = torch.randint(0, 50, (num_pixels,), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    counts = _count_in_lanes(cells, num_cells=50)
    assert counts.dtype == torch.int64
    assert counts.tolist() == np.bincount(cells.numpy(), minlength=50).tolist()


def test_resume_from_a_saved_state_is_exact():
    first, second = random_pair(2), random_pair(3)
    loss = (torch.tensor(1.1), torch.tensor(3))
    metric = count(*first)
    metric.update(*first, loss=loss)
    file = io.BytesIO()
    torch.save(metric.state(), file)
    metric.update(*second, loss=loss)

    resumed = SegmentationMetrics(NUM_CLASSES)
    resumed.update(*second)  # counts of the sanity check, which loading replaces
    file.seek(0)
    resumed.load_state(torch.load(file, weights_only=True))
    resumed.update(*second, loss=loss)
    assert resumed.compute() == metric.compute()
    assert all(torch.equal(resumed.state()[name], value) for name, value in metric.state().items())


def test_loaded_state_is_a_copy_and_can_be_computed_at_once(recwarn):
    metric = count(*random_pair(4))
    state = metric.state()
    resumed = count(*random_pair(5))
    resumed.compute()  # torchmetrics caches the result
    resumed.load_state(state)
    assert_scores(resumed.compute(), metric.compute())
    resumed.confusion += 1
    assert torch.equal(state["confusion"], metric.confusion)
    assert not recwarn.list


def test_state_of_another_number_of_classes_is_rejected():
    state = SegmentationMetrics(21).state()
    with pytest.raises(ValueError, match=r"state .* must have the shapes .*; use the state .* num_classes=4"):
        SegmentationMetrics(4).load_state(state)
    with pytest.raises(ValueError, match="must have the shapes"):
        SegmentationMetrics(4).load_state({})


class Task(LightningModule):
    """Minimal module with a metric as an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(1, 1)
        self.metrics = SegmentationMetrics(NUM_CLASSES)


def test_counts_are_not_part_of_the_state_dict():
    task = Task()
    task.metrics.update(*random_pair(5))
    assert set(task.state_dict()) == {"net.weight", "net.bias"}
    Task().load_state_dict(task.state_dict())


@pytest.mark.parametrize(
    "convert",
    [
        lambda task: task.half(),
        lambda task: task.double(),
        lambda task: task.type(torch.float16),
        lambda task: task.to(torch.float16),
        lambda task: task.to("cpu", torch.float16),
        lambda task: HalfPrecision("bf16-true").convert_module(task),
    ],
)
def test_counts_keep_their_dtype_when_the_module_changes_precision(convert):
    task = Task()
    task.metrics.update(*random_pair(6), loss=(torch.tensor(1e6), torch.tensor(10**9)))
    before = task.metrics.state()
    task = convert(task)
    for name, value in task.metrics.state().items():
        assert value.dtype == before[name].dtype, name
        assert torch.equal(value, before[name]), name
    task.metrics.reset()
    assert task.metrics.confusion.dtype == torch.int64
    assert task.metrics.loss_sum.dtype == task.metrics.loss_divisor.dtype == torch.float64


def test_counting_continues_after_inference_mode():
    metric = SegmentationMetrics(NUM_CLASSES)
    with torch.inference_mode():
        metric.reset()
        metric.update(*random_pair(7), loss=(torch.tensor(1.0), torch.tensor(1)))
    metric.update(*random_pair(7), loss=(torch.tensor(1.0), torch.tensor(1)))
    assert torch.equal(metric.confusion, 2 * count(*random_pair(7)).confusion)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_gpu_counts_without_synchronisation():
    prediction, target = random_pair(8, num_images=16, num_classes=21)
    metric = SegmentationMetrics(21).cuda()
    batch = prediction.cuda(), target.cuda()
    loss = torch.tensor(1.0, device="cuda"), torch.tensor(1, device="cuda")
    torch.cuda.set_sync_debug_mode("error")
    try:
        metric.update(*batch, loss=loss)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(metric.confusion.cpu(), count(prediction, target, 21).confusion)
    assert metric.state()["confusion"].device.type == "cpu"


@given(st.integers(0, 2**32 - 1), st.sampled_from([torch.float32, torch.bfloat16]))
def test_first_of_equal_scores_is_predicted(seed, dtype):
    logits = torch.from_numpy(np.random.default_rng(seed).integers(0, 3, (2, 4, 5, 6))).to(dtype)
    expected = logits.float().numpy().argmax(axis=1)
    assert np.array_equal(predicted_classes(logits).numpy(), expected)


@pytest.mark.parametrize("num_classes", [1, 255])
def test_predicted_class_is_that_of_argmax_for_any_number_of_classes_and_infinity(num_classes):
    logits = torch.randn(2, num_classes, 6, 7, generator=torch.Generator().manual_seed(num_classes))
    logits[0, -1, 0], logits[1, :, 1], logits[1, num_classes // 2, 2] = torch.inf, -torch.inf, torch.inf
    assert torch.equal(predicted_classes(logits).long(), logits.argmax(dim=1))
    assert predicted_classes(logits[:0]).shape == (0, 6, 7)


def test_predicted_class_of_nan_is_a_class():
    logits = torch.zeros(1, 3, 1, 2)
    logits[0, 1, 0, 0] = torch.nan
    assert predicted_classes(logits)[0, 0, 0] < 3
    assert predicted_classes(logits)[0, 0, 1] == 0

"""Scores of an epoch: each count belongs to one prefix, is summed over processes, and is used once."""

import pytest
import torch
from torchmetrics.functional.classification import multiclass_jaccard_index

from fcn.training.epoch_metrics import EpochMetrics

CLASSES = ["background", "cat", "dog"]


def random_masks(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    prediction, target = (torch.randint(3, (2, 8, 8), generator=generator) for _ in range(2))
    return prediction, target.to(torch.uint8)


def loss(numerator: float, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(numerator), torch.tensor(count)


def test_scores_of_a_validation_are_those_of_its_epoch_and_are_returned_once():
    metrics, (prediction, target) = EpochMetrics(CLASSES, is_d2l=False), random_masks(0)
    metrics["train/"].update(prediction, target, loss=loss(6.0, 4))
    metrics["val/"].update(prediction, target, loss=loss(3.0, 4))
    validated = metrics.validation_scores()
    reference = multiclass_jaccard_index(prediction, target.long(), num_classes=3).item()
    assert validated["val/mean_iou"] == pytest.approx(reference)
    scores = metrics.epoch_scores()
    assert (scores["train/loss"], scores["val/loss"]) == (1.5, 0.75)
    assert {name: scores[name] for name in validated} == validated
    assert list(scores)[:2] == ["train/loss", "train/pixel_accuracy"]
    assert metrics.epoch_scores() == {}


def test_epoch_without_validation_has_training_scores_only():
    metrics = EpochMetrics(CLASSES, is_d2l=True)
    metrics["train/"].update(*random_masks(1), loss=loss(1.0, 2))
    assert set(metrics.epoch_scores()) == {"train/loss", "train/pixel_accuracy"}


def test_states_of_several_processes_add_up():
    parts = [EpochMetrics(CLASSES, is_d2l=False) for _ in range(2)]
    whole = EpochMetrics(CLASSES, is_d2l=False)
    for number, part in enumerate(parts):
        for metrics in (part, whole):
            metrics["train/"].update(*random_masks(number), loss=loss(1.0 + number, 2))
    resumed = EpochMetrics(CLASSES, is_d2l=False)
    resumed.load_states([part.state() for part in parts])
    assert resumed.epoch_scores() == whole.epoch_scores()

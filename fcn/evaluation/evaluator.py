"""Scores of a trained network on a set: whole images at native size, each counted exactly once."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fcn.config import ConfigError, DataConfig
from fcn.data.datasets import WholeImages
from fcn.data.image_sets import locate_root, split_images
from fcn.data.prefetch import read_ahead
from fcn.evaluation.boundary_metrics import boundary_confusions
from fcn.evaluation.metrics import confusion_matrix, predicted_classes, segmentation_scores
from fcn.evaluation.scores import class_counts
from fcn.inference.predictor import Predictor


@dataclass(frozen=True)
class Judged:
    """An image with what was expected and what was found; arrays are uint8.

    Attributes:
        index: place of the image in the list.
        image: [H, W, 3], RGB.
        target: [H, W].
        prediction: [H, W].
    """

    index: int
    image: NDArray[np.uint8]
    target: NDArray[np.uint8]
    prediction: NDArray[np.uint8]


@dataclass(frozen=True)
class Evaluation:
    """Everything that was counted, without void, in the order of the list.

    Attributes:
        classes: the C names.
        names: of the N images.
        confusions: int64 [N, C, C], a matrix per image; rows are the target.
        widths: of the W boundary bands, pixels.
        in_bands: int64 [W, C, C], a matrix per width, over all images.
        worst: the images of lowest mean IoU, lowest first; one that is all void has none and is not among them.
    """

    classes: list[str]
    names: list[str]
    confusions: Tensor
    widths: list[int]
    in_bands: Tensor
    worst: list[Judged]

    @property
    def confusion(self) -> Tensor:
        """Matrix over the whole set, int64 [C, C]."""
        return self.confusions.sum(dim=0)

    def class_rows(self) -> list[dict[str, Any]]:
        """A row per class: IoU, accuracy, and the pixels of target and prediction; NaN for a score without pixels."""
        targets, predicted = self.confusion.sum(dim=1), self.confusion.sum(dim=0)
        accuracy = self.confusion.diagonal().double() / targets
        columns = {
            "class": self.classes,
            "iou": class_counts(self.confusion.numpy()).iou().tolist(),
            "accuracy": accuracy.tolist(),
            "target_pixels": targets.tolist(),
            "predicted_pixels": predicted.tolist(),
        }
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def image_rows(self) -> list[dict[str, Any]]:
        """A row per image in the order of the list: mean IoU over the classes in it or found in it, pixel accuracy."""
        return [
            {"image": name, **_two_scores(confusion)}
            for name, confusion in zip(self.names, self.confusions, strict=True)
        ]

    def boundary_rows(self) -> list[dict[str, Any]]:
        """A row per band, over all images: its width, mean IoU, pixel accuracy."""
        return [
            {"width": width, **_two_scores(confusion)}
            for width, confusion in zip(self.widths, self.in_bands, strict=True)
        ]


def _two_scores(confusion: Tensor) -> dict[str, Any]:
    values = segmentation_scores(confusion)
    return {
        "mean_iou": values["mean_iou"],
        "pixel_accuracy": values["pixel_accuracy"],
        "pixels": int(confusion.sum()),
    }


def evaluation_images(data: DataConfig, split: str, *, classes: Sequence[str]) -> WholeImages:
    """The images of a split; draws the embedded set or downloads VOC where the configuration says so.

    Args:
        data: where the images are.
        split: a list in ImageSets/Segmentation.
        classes: what the network tells apart, to be compared with the set's.

    Raises:
        ConfigError: if the set has other classes.
        DataError: if there is no such set or split, or the split's list is empty or names a file that is not there.
    """
    if data.classes != list(classes):
        raise ConfigError(
            f"data.classes (=[{','.join(data.classes)}]) must be those of the run (=[{','.join(classes)}]), because "
            "a mask's indices mean classes; evaluate on a set with the run's classes"
        )
    return split_images(data, locate_root(data, prepare=True), split)


def evaluate(
    predictor: Predictor,
    images: WholeImages,
    *,
    batch_size: int = 1,
    widths: Sequence[int] = (),
    worst: int = 0,
    advance: Callable[[int], object] = lambda num_images: None,
) -> Evaluation:
    """Apply the network to every image and count.

    Images of one size share a batch; nothing is padded or resized, and every image is counted by itself. So the
    batches change no more than the rounding inside the network: by one image at a time, the masks are those of
    `predictor.predict` to the bit.

    Args:
        predictor: the network, and how it is applied.
        images: the set.
        batch_size: images that go through the network together, at most.
        widths: of the boundary bands, pixels, rising; see `fcn.evaluation.boundary_metrics`.
        worst: how many of the images of lowest mean IoU to keep.
        advance: called with the number of images of each batch when it is counted.

    Raises:
        ValueError: if the set has not as many classes as the network, or the widths do not rise.
        DataError: if a pair cannot be read. Scores of a part of a set would be taken for those of the set.
    """
    num_classes = len(predictor.classes)
    if images.num_classes != num_classes:
        raise ValueError(f"images.num_classes (={images.num_classes}) must be the network's; use {num_classes}")
    confusions = torch.zeros(len(images), num_classes, num_classes, dtype=torch.int64)
    in_bands = torch.zeros(len(widths), num_classes, num_classes, dtype=torch.int64)
    kept: list[tuple[float, int, Judged]] = []
    batches = images.batches(batch_size)

    for batch, reading in read_ahead(lambda batch: [images[index] for index in batch], batches):
        samples = reading.result()
        pixels, targets = (torch.stack([sample[key] for sample in samples]) for key in ("image", "mask"))
        predictions = predicted_classes(predictor.batch_logits(pixels))
        counts, band_counts = _count(predictions, targets.to(predictions.device), widths, num_classes=num_classes)
        confusions[batch] = counts
        in_bands += band_counts
        found = zip(batch, pixels, targets, predictions.to("cpu", torch.uint8), strict=True)
        kept = _worst(kept, [_judged(*one) for one in found] if worst else [], confusions, number=worst)
        advance(len(batch))
    names = [pair.name for pair in images.pairs]
    return Evaluation(predictor.classes, names, confusions, list(widths), in_bands, [judged for *_, judged in kept])


def _count(predictions: Tensor, targets: Tensor, widths: Sequence[int], *, num_classes: int) -> tuple[Tensor, Tensor]:
    """Matrices of each image, int64 [N, C, C], and of each band over the images, [W, C, C]; on the CPU."""
    pairs = list(zip(predictions, targets, strict=True))
    whole = torch.stack([confusion_matrix(*pair, num_classes=num_classes) for pair in pairs])
    bands = torch.stack([boundary_confusions(*pair, widths, num_classes=num_classes) for pair in pairs])
    return whole.cpu(), bands.sum(dim=0).cpu()


def _judged(index: int, image: Tensor, target: Tensor, prediction: Tensor) -> Judged:
    return Judged(index, image.permute(1, 2, 0).contiguous().numpy(), target.numpy(), prediction.numpy())


def _worst(
    kept: list[tuple[float, int, Judged]], found: list[Judged], confusions: Tensor, *, number: int
) -> list[tuple[float, int, Judged]]:
    """The `number` lowest of both lists by mean IoU, then by place, so that the order of batches does not matter."""
    ranked = [(segmentation_scores(confusions[one.index])["mean_iou"], one.index, one) for one in found]
    known = [entry for entry in ranked if not np.isnan(entry[0])]
    return heapq.nsmallest(number, [*kept, *known], key=lambda entry: entry[:2])

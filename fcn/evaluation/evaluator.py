"""Evaluation of a trained network on a set of whole images at native size, each counted exactly once."""

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
from fcn.data.image_sets import split_images
from fcn.data.prefetch import read_ahead
from fcn.data.set_checks import require_labels
from fcn.evaluation.boundary_metrics import boundary_confusions
from fcn.evaluation.metrics import confusion_matrix, segmentation_scores
from fcn.evaluation.scores import class_counts
from fcn.inference.predictor import Predictor
from fcn.models.network import predicted_classes


@dataclass(frozen=True)
class PredictedImage:
    """An image with its target and its prediction; arrays are uint8.

    Attributes:
        index: index of the image in the set.
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
    """Confusion matrices of a set of images, in the order of the set; void is not counted.

    Attributes:
        classes: names of the C classes.
        names: names of the N images.
        confusions: int64 [N, C, C], one matrix per image; rows are the target.
        widths: widths of the W boundary bands, pixels.
        in_bands: int64 [W, C, C], one matrix per band, over all images.
        worst: images of lowest mean IoU, lowest first; images without a score, which are all void, are excluded.
    """

    classes: list[str]
    names: list[str]
    confusions: Tensor
    widths: list[int]
    in_bands: Tensor
    worst: list[PredictedImage]

    @property
    def confusion(self) -> Tensor:
        """Confusion matrix over the whole set, int64 [C, C]."""
        return self.confusions.sum(dim=0)

    def class_rows(self) -> list[dict[str, Any]]:
        """Return a row per class: IoU, accuracy, pixels of target and prediction; NaN for a score without pixels."""
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
        """Return a row per image: mean IoU over the classes in target or prediction, and pixel accuracy."""
        return [
            {"image": name, **_mean_iou_and_accuracy(confusion)}
            for name, confusion in zip(self.names, self.confusions, strict=True)
        ]

    def boundary_rows(self) -> list[dict[str, Any]]:
        """Return a row per band, over all images: its width, mean IoU and pixel accuracy."""
        return [
            {"width": width, **_mean_iou_and_accuracy(confusion)}
            for width, confusion in zip(self.widths, self.in_bands, strict=True)
        ]


def _mean_iou_and_accuracy(confusion: Tensor) -> dict[str, Any]:
    values = segmentation_scores(confusion)
    return {
        "mean_iou": values["mean_iou"],
        "pixel_accuracy": values["pixel_accuracy"],
        "pixels": int(confusion.sum()),
    }


def evaluation_images(data: DataConfig, split: str, *, classes: Sequence[str], prepare: bool = True) -> WholeImages:
    """Return the images of a split, after drawing the built-in dataset or downloading VOC if configured.

    Args:
        data: the group `data`.
        split: name of a list in ImageSets/Segmentation.
        classes: classes of the network, which must be those of the dataset.
        prepare: whether missing data are drawn or downloaded first.

    Raises:
        ConfigError: if the dataset has other classes.
        DataError: if the dataset or split does not exist, its list is empty or names a missing file, or the masks
            contain nothing to score.
    """
    if data.classes != list(classes):
        raise ConfigError(
            f"data.classes (=[{','.join(data.classes)}]) must be those of the run (=[{','.join(classes)}]), because "
            "a mask's indices mean classes; evaluate on a set with the run's classes"
        )
    images = split_images(data, data.locate(prepare=prepare), split)
    require_labels(images, split, classes)
    return images


def evaluate(
    predictor: Predictor,
    images: WholeImages,
    *,
    batch_size: int = 1,
    widths: Sequence[int] = (),
    worst: int = 0,
    advance: Callable[[int], object] = lambda num_images: None,
) -> Evaluation:
    """Predict every image and compare it with its mask.

    A batch holds images of one size; nothing is padded or resized, and every image is counted separately. Batches
    therefore change nothing but rounding inside the network; with `batch_size=1` the masks are bit-identical to those
    of `predictor.predict`.

    Args:
        predictor: the network with its inference settings.
        images: the images with their masks.
        batch_size: maximum number of images per batch.
        widths: widths of the boundary bands in pixels, increasing; see `fcn.evaluation.boundary_metrics`.
        worst: number of images of lowest mean IoU to keep.
        advance: called after each batch with its number of images.

    Raises:
        ValueError: if the numbers of classes of images and network differ, or the widths do not increase.
        DataError: if an image or mask cannot be read; there are no scores of a part of a set.
    """
    num_classes = len(predictor.classes)
    if images.num_classes != num_classes:
        raise ValueError(f"images.num_classes (={images.num_classes}) must be the network's; use {num_classes}")
    confusions = torch.zeros(len(images), num_classes, num_classes, dtype=torch.int64)
    in_bands = torch.zeros(len(widths), num_classes, num_classes, dtype=torch.int64)
    ranked: list[tuple[float, int, PredictedImage]] = []
    batches = images.batches(batch_size)

    with read_ahead(lambda batch: [images[index] for index in batch], batches) as readings:
        for batch, reading in readings:
            samples = reading.result()
            pixels, targets = (torch.stack([sample[key] for sample in samples]) for key in ("image", "mask"))
            predictions = predicted_classes(predictor.batch_logits(pixels))
            counts, band_counts = _confusions(
                predictions, targets.to(predictions.device), widths, num_classes=num_classes
            )
            confusions[batch] = counts
            in_bands += band_counts
            if worst:
                arrays = zip(batch, pixels, targets, predictions.to("cpu", torch.uint8), strict=True)
                ranked = _lowest(ranked, [_predicted_image(*each) for each in arrays], confusions, number=worst)
            advance(len(batch))
    names = [pair.name for pair in images.pairs]
    return Evaluation(predictor.classes, names, confusions, list(widths), in_bands, [image for *_, image in ranked])


def _confusions(
    predictions: Tensor, targets: Tensor, widths: Sequence[int], *, num_classes: int
) -> tuple[Tensor, Tensor]:
    """Return the matrices of each image, int64 [N, C, C], and of each band over the images, [W, C, C]; on the CPU."""
    pairs = list(zip(predictions, targets, strict=True))
    whole = torch.stack([confusion_matrix(*pair, num_classes=num_classes) for pair in pairs])
    bands = torch.stack([boundary_confusions(*pair, widths, num_classes=num_classes) for pair in pairs])
    return whole.cpu(), bands.sum(dim=0).cpu()


def _predicted_image(index: int, image: Tensor, target: Tensor, prediction: Tensor) -> PredictedImage:
    return PredictedImage(index, image.permute(1, 2, 0).contiguous().numpy(), target.numpy(), prediction.numpy())


def _lowest(
    ranked: list[tuple[float, int, PredictedImage]], images: list[PredictedImage], confusions: Tensor, *, number: int
) -> list[tuple[float, int, PredictedImage]]:
    """Return the `number` entries of lowest mean IoU, ties by index, so that the order of batches has no effect."""
    entries = [(segmentation_scores(confusions[image.index])["mean_iou"], image.index, image) for image in images]
    scored = [entry for entry in entries if not np.isnan(entry[0])]
    return heapq.nsmallest(number, [*ranked, *scored], key=lambda entry: entry[:2])

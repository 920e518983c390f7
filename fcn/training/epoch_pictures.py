"""Pictures of an epoch: confusion matrix, predictions on sample images, upsampling kernels."""

from __future__ import annotations

from PIL import Image

from fcn.data.module import VOCDataModule
from fcn.evaluation.scores import class_counts
from fcn.inference.predictor import predict_logits, to_mask
from fcn.models.upsampling import bilinear_kernel
from fcn.training.monitors import upsampling_layers
from fcn.training.task import SegmentationTask
from fcn.visualization.confusion_matrix import draw_confusion_matrix
from fcn.visualization.panels import Sample, draw_panels
from fcn.visualization.upsampling_kernels import draw_kernels

SAMPLES_TAG = "val/samples"

MAX_PICTURES = 10
"""Number of pictures of a tag in a run: as many as TensorBoard shows by default. More would fill the disk."""


def pictures_are_due(done: int, total: int, *, interval: int) -> bool:
    """Whether pictures are drawn after a validation: after `MAX_PICTURES` evenly spaced ones, including the last.

    Args:
        done: epochs or steps done.
        total: epochs or steps of the run.
        interval: epochs or steps between validations.
    """
    return done * MAX_PICTURES // total > (done - interval) * MAX_PICTURES // total


def draw_epoch_pictures(task: SegmentationTask, data: VOCDataModule) -> dict[str, Image.Image]:
    """Return the pictures after a validation by their TensorBoard tags; without samples, `SAMPLES_TAG` is missing."""
    classes = task.config.data.classes
    confusion = task.metrics.confusion.numpy()
    pictures = {"val/confusion_matrix": draw_confusion_matrix(confusion, classes, class_counts(confusion).iou())}
    if samples := predict_samples(task, data):
        pictures[SAMPLES_TAG] = draw_panels(samples, classes)
    if layers := upsampling_layers(task.network.evaluated_model):
        weights = {name: layer.weight.detach().cpu().numpy() for name, layer in layers.items()}
        kernels = {name: (w, bilinear_kernel(1, w.shape[-1])[0, 0].numpy()) for name, w in weights.items()}
        pictures["upsampling/kernels"] = draw_kernels(kernels, classes)
    return pictures


def predict_samples(task: SegmentationTask, data: VOCDataModule) -> list[Sample]:
    """Return image, target and prediction of `trainer.sample_images` images, evenly spaced in the validation set."""
    count = min(task.config.trainer.sample_images, len(data.val_images))
    samples = []
    for number in range(count):
        sample = data.val_images[number * len(data.val_images) // count]
        prediction = to_mask(predict_logits(task.network, sample["image"]).cpu())
        samples.append((sample["image"].permute(1, 2, 0).numpy(), sample["mask"].numpy(), prediction))
    return samples

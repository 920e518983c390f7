"""Evaluation of whole images: ours, in batches of equal size, against a plain loop over single images."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torchvision import datasets
from torchvision.transforms.v2 import functional as F

from benchmarks.results import Goal, Result
from benchmarks.settings import Settings, make_tree
from benchmarks.timing import compare_in_turns, default_torch_settings, seconds_once
from fcn.config import InferenceConfig
from fcn.config.choices import Accelerator
from fcn.evaluation.evaluator import evaluate, evaluation_images
from fcn.inference.predictor import Predictor
from fcn.models.network import IMAGENET_MEAN, IMAGENET_STD
from fcn.training.train import build_task

REFERENCE = "a plain loop over single images: decode, normalise, network, argmax, bincount"


def measure_evaluation(settings: Settings) -> list[Result]:
    """Compare `fcn.evaluation` with a plain loop with the same network."""
    number = 4 if settings.quick else 128 if settings.on_gpu else 16
    batch_size = 2 if settings.quick else 8
    tree = make_tree(settings.folder / "evaluation-tree", num_train=number, num_val=number, source=settings.data_root)
    config = settings.config(tree, settings.variants[0])
    accelerator = Accelerator.gpu if settings.on_gpu else Accelerator.cpu
    predictor = Predictor(build_task(config).network, InferenceConfig(accelerator=accelerator))
    images = evaluation_images(config.data, "val", classes=config.data.classes)
    result = compare_in_turns(
        settings,
        f"whole images per second, batches of {batch_size}",
        REFERENCE,
        "rate speedup",
        ours=lambda: number / seconds_once(lambda: evaluate(predictor, images, batch_size=batch_size)),
        theirs=lambda: number / seconds_once(lambda: evaluate_plainly(predictor, tree)),
        unit="images/s",
        goal=Goal(2) if settings.on_gpu and not settings.quick else None,
    )
    return [result]


def evaluate_plainly(predictor: Predictor, tree: Path) -> Tensor:
    """Return the confusion matrix of val.txt, int64 [C, C] on the CPU, without threads and batches.

    Args:
        predictor: predictor whose network is used, in float32.
        tree: folder that contains VOCdevkit/VOC2012.
    """
    network, num_classes = predictor.network, len(predictor.classes)
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    with default_torch_settings(network.device.type), torch.inference_mode():
        for image, mask in datasets.VOCSegmentation(tree, year="2012", image_set="val"):
            target = F.pil_to_tensor(mask)[0].long()
            pixels = F.normalize(F.to_dtype(F.to_image(image), torch.float32, scale=True), IMAGENET_MEAN, IMAGENET_STD)
            logits = network.model(pixels[None].to(network.device).contiguous(memory_format=network.layout))
            prediction = logits.argmax(dim=1)[0].cpu()
            known = target < num_classes
            cells = target[known] * num_classes + prediction[known]
            confusion += torch.bincount(cells, minlength=num_classes**2).view(num_classes, num_classes)
    return confusion

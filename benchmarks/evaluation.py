"""Evaluation of whole images: ours in batches of equal size against a plain loop that takes one image at a time."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision import datasets
from torchvision.transforms.v2 import functional as F

from benchmarks.measuring import alternate, plain_torch, seconds_per_call
from benchmarks.results import Findings, Goal, speedup
from benchmarks.settings import Settings, make_tree
from fcn.config import Accelerator, InferenceConfig
from fcn.evaluation.evaluator import evaluate, evaluation_images
from fcn.inference.predictor import Predictor
from fcn.models.network import IMAGENET_MEAN, IMAGENET_STD
from fcn.training.train import build_task

REFERENCE = "a plain loop, one image at a time: decode, normalise, network, argmax, bincount"


def measure(settings: Settings) -> Findings:
    """Images per second of `fcn.evaluation.evaluate`, and of a plain loop with the same network."""
    number = 4 if settings.quick else 128 if settings.on_gpu else 16
    batch_size = 2 if settings.quick else 8
    tree = make_tree(settings.folder / "evaluation-tree", num_train=number, num_val=number, source=settings.data_root)
    config = settings.config(tree, settings.variants[0])
    accelerator = Accelerator.gpu if settings.on_gpu else Accelerator.cpu
    predictor = Predictor(build_task(config).network, InferenceConfig(accelerator=accelerator))
    images = evaluation_images(config.data, "val", classes=config.data.classes)

    def ours() -> float:
        counted = seconds_per_call(
            lambda: evaluate(predictor, images, batch_size=batch_size), calls=1, device=settings.device
        )
        return number / counted

    def theirs() -> float:
        return number / seconds_per_call(lambda: plain_loop(predictor, tree), calls=1, device=settings.device)

    name = f"whole images per second, batches of {batch_size}"
    found = alternate(
        {"theirs": theirs, "ours": ours},
        rounds=settings.rounds,
        tell=lambda line: settings.tell(f"{name}: {line}"),
    )
    goal = Goal(2) if settings.on_gpu and not settings.quick else None
    result = speedup(name, REFERENCE, ours=found["ours"], theirs=found["theirs"], unit="images/s", goal=goal)
    return Findings([result])


@torch.inference_mode()
def plain_loop(predictor: Predictor, tree: object) -> Tensor:
    """Confusion matrix of val.txt, int64 [C, C] on the CPU, as a person would write it down: no threads, no batches.

    Args:
        predictor: whose network is used, in float32.
        tree: folder that holds VOCdevkit/VOC2012.
    """
    device, num_classes = predictor.network.device, len(predictor.classes)
    confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    with plain_torch(device.type), torch.inference_mode():
        for image, mask in datasets.VOCSegmentation(tree, year="2012", image_set="val", download=False):
            target = F.pil_to_tensor(mask)[0].long()
            pixels = F.normalize(F.to_dtype(F.to_image(image), torch.float32, scale=True), IMAGENET_MEAN, IMAGENET_STD)
            logits = predictor.network.model(pixels[None].to(device).contiguous(memory_format=predictor.network.layout))
            prediction = logits.argmax(dim=1)[0].cpu()
            known = target < num_classes
            cells = target[known] * num_classes + prediction[known]
            confusion += torch.bincount(cells, minlength=num_classes**2).view(num_classes, num_classes)
    return confusion

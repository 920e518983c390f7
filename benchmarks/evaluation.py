"""Evaluation of whole images against a plain loop over single images, and prediction against evaluation."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torchvision import datasets
from torchvision.transforms.v2 import functional as F

from benchmarks.results import Goal, Result
from benchmarks.settings import Settings, make_tree
from benchmarks.timing import compare_in_turns, default_torch_settings, seconds_once, separate_process
from fcn.config import Config, EvaluateConfig, InferenceConfig
from fcn.config.choices import Accelerator, InferencePrecision
from fcn.data.datasets import WholeImages
from fcn.evaluation.evaluator import evaluate, evaluation_images
from fcn.inference.image_files import Source
from fcn.inference.predicted_files import OutputFolder, write_predictions
from fcn.inference.predictor import Predictor
from fcn.models.device import keep_freed_memory
from fcn.models.network import IMAGENET_MEAN, IMAGENET_STD
from fcn.training.train import build_task

REFERENCE = "a plain loop over single images: decode, normalise, network, argmax, bincount"


def measure_evaluation(settings: Settings) -> list[Result]:
    """Compare `fcn.evaluation` in fp32 and in bf16 with a plain loop with the same network in fp32."""
    number = number_of_images(settings)
    tree = make_tree(settings.folder / "evaluation-tree", num_train=number, num_val=number, source=settings.data_root)
    config = settings.config(tree, settings.variants[0])
    with separate_process(_prepare_plain, config, tree, settings.device, torch.get_num_threads()) as plain:
        return [_compare_evaluation(settings, config, precision, number, plain) for precision in InferencePrecision]


def _compare_evaluation(
    settings: Settings, config: Config, precision: InferencePrecision, number: int, plain: ProcessPoolExecutor
) -> Result:
    predictor, images = prepare_evaluation(settings, config, precision)
    batch_size = 8 if settings.on_gpu and not settings.quick else 1
    return compare_in_turns(
        settings,
        f"whole images per second, {precision}, batches of {batch_size}",
        REFERENCE,
        "rate speedup",
        ours=lambda: number / seconds_once(lambda: evaluate(predictor, images, batch_size=batch_size)),
        theirs=lambda: number / plain.submit(_measure_plain).result(),
        unit="images/s",
        goal=Goal(3 if settings.on_gpu else 1.5) if not settings.quick else None,
    )


def measure_prediction(settings: Settings) -> list[Result]:
    """Compare predicting images, with masks and overlays as files, with their evaluation, as the commands do both."""
    number = number_of_images(settings)
    tree = make_tree(settings.folder / "prediction-tree", num_train=number, num_val=number, source=settings.data_root)
    predictor, images = prepare_evaluation(settings, settings.config(tree, settings.variants[0]))
    folder, command = OutputFolder(settings.folder / "predictions"), EvaluateConfig()
    sources = [Source(pair.image, pair.name) for pair in images.pairs]
    folder.prepare(sources, predictor.classes)

    def evaluated() -> object:
        batch_size = 8 if settings.on_gpu else 1
        return evaluate(predictor, images, batch_size=batch_size, widths=command.boundary_widths, worst=command.worst)

    def predicted() -> object:
        with write_predictions(predictor, sources, folder) as results:
            return list(results)

    result = compare_in_turns(
        settings,
        "predicted images per second, with masks and overlays",
        "evaluation of the same images, with boundary bands",
        "rate speedup",
        ours=lambda: number / seconds_once(predicted),
        theirs=lambda: number / seconds_once(evaluated),
        unit="images/s",
        goal=None if settings.quick else Goal(1),
    )
    return [result]


def number_of_images(settings: Settings) -> int:
    return 4 if settings.quick else 128 if settings.on_gpu else 32


def untrained_predictor(
    config: Config, device: str, precision: InferencePrecision = InferencePrecision.fp32
) -> Predictor:
    accelerator = Accelerator.gpu if device == "cuda" else Accelerator.cpu
    return Predictor(build_task(config).network, InferenceConfig(accelerator=accelerator, precision=precision))


def prepare_evaluation(
    settings: Settings, config: Config, precision: InferencePrecision = InferencePrecision.fp32
) -> tuple[Predictor, WholeImages]:
    """Return an untrained network and the images of val, with the settings of the process that the commands make."""
    predictor = untrained_predictor(config, settings.device, precision)
    keep_freed_memory(predictor.network.device)
    return predictor, evaluation_images(config.data, "val", classes=config.data.classes)


_evaluate_plainly: Callable[[], object]  # in the process of the reference


def _prepare_plain(config: Config, tree: Path, device: str, num_threads: int) -> None:
    global _evaluate_plainly
    torch.set_num_threads(num_threads)
    _evaluate_plainly = partial(evaluate_plainly, untrained_predictor(config, device), tree)


def _measure_plain() -> float:
    return seconds_once(_evaluate_plainly)


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

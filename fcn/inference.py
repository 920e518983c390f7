"""An image of any size to logits or to a mask: what a trained run is for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fcn import config as configuration
from fcn import runs
from fcn.task import SegmentationTask


class CheckpointError(ValueError):
    """A file that is no checkpoint of this project, or none that fits."""


class Predictor:
    """A trained network that takes images.

    Attributes:
        task: the network with its normalisation, in evaluation mode.
        classes: names in the order of the mask values.
    """

    def __init__(self, task: SegmentationTask) -> None:
        self.task = task.eval()
        self.classes = task.config.data.classes

    def logits(self, image: Image.Image | NDArray[np.uint8]) -> Tensor:
        """Class scores of every pixel, float [C, H, W] on the CPU.

        Args:
            image: PIL image of any mode, or uint8 [H, W, 3] in RGB.
        """
        if isinstance(image, Image.Image):
            image = np.asarray(image.convert("RGB"))
        return predict_logits(self.task, torch.from_numpy(image.copy()).permute(2, 0, 1)).cpu()

    def predict(self, image: Image.Image | NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Class of every pixel, uint8 [H, W]; see `logits`."""
        mask: NDArray[np.uint8] = self.logits(image).argmax(dim=0).to(torch.uint8).numpy()
        return mask


def load(run: str | Path) -> Predictor:
    """Predictor of a run directory (its best checkpoint, or the last if there is no best) or of a checkpoint file.

    Raises:
        CheckpointError: if there is no checkpoint, or it does not load.
    """
    path = Path(run)
    if path.is_dir():
        path = next((path / name for name in (runs.BEST, runs.LAST) if (path / name).is_file()), path / runs.LAST)
    return Predictor(load_task(path))


def load_task(checkpoint: Path) -> SegmentationTask:
    """Task with the weights of a checkpoint, on the CPU, in evaluation mode; no other file is needed.

    Raises:
        CheckpointError: if the file is absent or does not hold what a run of this project saves.
        ConfigError: if its configuration is not one of this version.
    """
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
        container, weights = content["config"], content["state_dict"]
    except FileNotFoundError:
        raise CheckpointError(f"{checkpoint} must be a checkpoint, but there is no such file") from None
    except Exception as error:  # of many kinds, IndexError among them, for what is no checkpoint
        problem = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{checkpoint} must be a checkpoint saved by train.py: {problem}") from error
    config = configuration.from_container(container)
    # The checkpoint brings all weights: nothing is fetched only to be overwritten.
    task = SegmentationTask(replace(config, backbone=replace(config.backbone, weights="none")))
    task.load_state_dict(weights)
    return task.eval()


@torch.inference_mode()
def predict_logits(task: SegmentationTask, image: Tensor) -> Tensor:
    """Logits of a whole image at native size, float [C, H, W], on the task's device.

    Args:
        task: left in the mode, training or evaluation, in which it was.
        image: uint8 [3, H, W].
    """
    was_training = task.training
    task.eval()
    try:
        logits: Tensor = task(image.unsqueeze(0).to(task.device))
        return logits[0].float()
    finally:
        task.train(was_training)

"""An image of any size to logits, probabilities or a mask: what a trained run is for."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fcn import config as configuration
from fcn import runs
from fcn.config import Accelerator, ConfigError, Inference, InferenceConfig, PublishedWeights, check_inference
from fcn.data.voc import to_rgb
from fcn.task import SegmentationTask


class CheckpointError(ValueError):
    """A file that is no checkpoint of this project, or none that fits."""


class Predictor:
    """A trained network that takes images.

    Attributes:
        task: the network with its normalisation, in evaluation mode.
        settings: how it is applied.
        classes: names in the order of the mask values.
    """

    def __init__(self, task: SegmentationTask, settings: InferenceConfig | None = None) -> None:
        """Take over `task`: it is moved to the device that `settings.accelerator` names.

        Raises:
            ConfigError: if the settings contradict each other, or ask for a GPU where there is none.
        """
        self.settings = settings or InferenceConfig()
        check_inference(self.settings)
        self.task = task.eval().to(_device(self.settings.accelerator))
        self.classes = task.config.data.classes

    def logits(self, image: Image.Image | NDArray[np.uint8]) -> Tensor:
        """Class scores of every pixel, float32 [C, H, W] on the CPU.

        Averaged over tiles; with `flip` or several `scales`, the logarithm of averaged probabilities.

        Args:
            image: PIL image of any mode, or uint8 [H, W, 3] in RGB; its pixels as stored.
        """
        pixels = np.array(to_rgb(image) if isinstance(image, Image.Image) else image)
        return self.batch_logits(torch.from_numpy(pixels).permute(2, 0, 1).unsqueeze(0))[0].cpu()

    def probabilities(self, image: Image.Image | NDArray[np.uint8]) -> Tensor:
        """Probability of every class at every pixel, float32 [C, H, W] on the CPU; see `logits`."""
        return self.logits(image).softmax(dim=0)

    def predict(self, image: Image.Image | NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Class of every pixel, uint8 [H, W]; see `logits`."""
        mask: NDArray[np.uint8] = self.logits(image).argmax(dim=0).to(torch.uint8).numpy()
        return mask

    @torch.inference_mode()
    def batch_logits(self, images: Tensor) -> Tensor:
        """Class scores for images of one size, float32 [N, C, H, W] on the task's device; see `logits`.

        Args:
            images: uint8 [N, 3, H, W].
        """
        images = images.to(self.task.device)
        if not self.settings.flip and self.settings.scales == [1.0]:
            return self._scores(images)
        size = images.shape[-2:]
        views = [_scaled(images, scale) for scale in self.settings.scales]
        scores = [F.interpolate(self._scores(view), size, mode="bilinear", align_corners=False) for view in views]
        if self.settings.flip:
            views = [view.flip(-1) for view in views]
            mirrored = [F.interpolate(self._scores(view), size, mode="bilinear", align_corners=False) for view in views]
            scores += [view.flip(-1) for view in mirrored]
        return torch.stack([score.softmax(dim=1) for score in scores]).mean(dim=0).log()

    def _scores(self, images: Tensor) -> Tensor:
        """Logits of the network at the size of `images`, float32 [N, C, H, W]."""
        if self.settings.inference is Inference.whole:
            logits: Tensor = self.task(images)
            return logits.float()
        total, count = torch.zeros(0), torch.zeros(0)
        for rows, columns in tiles(images.shape[-2:], self.settings.tile_size):
            logits = self.task(images[..., rows, columns]).float()
            if not total.numel():
                total = logits.new_zeros(*logits.shape[:2], *images.shape[-2:])
                count = logits.new_zeros(images.shape[-2:])
            total[..., rows, columns] += logits
            count[rows, columns] += 1
        return total / count


def tiles(size: Any, tile_size: Any) -> list[tuple[slice, slice]]:
    """Rows and columns of the fewest tiles that cover an image, spread evenly, so that neighbours overlap.

    The chapter's way to predict an image that is no multiple of the stride. An axis shorter than the tile is
    taken whole, since the network takes any size.

    Args:
        size: height and width of the image.
        tile_size: height and width of a tile.
    """
    rows, columns = (_along(side, tile) for side, tile in zip(size, tile_size, strict=True))
    return [(row, column) for row in rows for column in columns]


def _along(side: int, tile: int) -> list[slice]:
    count = math.ceil(side / tile)
    spare = max(0, side - tile)
    starts = [round(number * spare / max(1, count - 1)) for number in range(count)]
    return [slice(start, min(start + tile, side)) for start in starts]


def _scaled(images: Tensor, scale: float) -> Tensor:
    """Images at `scale` of their size, at least one pixel; float in [0, 1] unless the scale is 1."""
    if scale == 1:
        return images
    size = [max(1, round(side * scale)) for side in images.shape[-2:]]
    return F.interpolate(images / 255, size, mode="bilinear", align_corners=False, antialias=scale < 1)


def _device(accelerator: Accelerator) -> torch.device:
    if accelerator is Accelerator.gpu and not torch.cuda.is_available():
        raise ConfigError("accelerator (=gpu) needs a GPU, and torch sees none; use accelerator=cpu")
    return torch.device("cpu" if accelerator is Accelerator.cpu or not torch.cuda.is_available() else "cuda")


def load(run: str | Path, settings: InferenceConfig | None = None) -> Predictor:
    """Predictor of a run directory (its best checkpoint, or the last if there is no best) or of a checkpoint file.

    Raises:
        CheckpointError: if there is no checkpoint, or it does not load.
    """
    return Predictor(load_task(find_checkpoint(run)), settings)


def find_checkpoint(run: str | Path) -> Path:
    """The best checkpoint of a run directory, or the last if there is no best; a file is taken as it is."""
    path = Path(run)
    if path.is_dir():
        return next((path / name for name in (runs.BEST, runs.LAST) if (path / name).is_file()), path / runs.LAST)
    return path


def load_task(checkpoint: Path) -> SegmentationTask:
    """Task with the weights of a checkpoint, on the CPU, in evaluation mode; no other file is needed.

    Raises:
        CheckpointError: if the file is absent or does not hold what a run of this project saves.
        ConfigError: if its configuration is not one of this version.
    """
    content = _read(checkpoint)
    config = configuration.from_container(content["config"])
    # The checkpoint brings all weights: nothing is fetched only to be overwritten.
    bare = replace(
        config,
        backbone=replace(config.backbone, weights="none"),
        model=replace(config.model, weights=PublishedWeights.none),
    )
    task = SegmentationTask(bare)
    task.load_state_dict(content["state_dict"])
    return task.eval()


def network_weights(run: str | Path) -> dict[str, Tensor]:
    """Weights of the network in a run or checkpoint, by their names in the network.

    Raises:
        CheckpointError: if there is no checkpoint, or it does not load.
    """
    state = _read(find_checkpoint(run))["state_dict"]
    return {name.removeprefix("model."): value for name, value in state.items() if name.startswith("model.")}


def _read(checkpoint: Path) -> dict[str, Any]:
    """Content of a checkpoint; no code of a pickle is run."""
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
        return {key: content[key] for key in ("config", "state_dict")}
    except FileNotFoundError:
        raise CheckpointError(f"{checkpoint} must be a checkpoint, but there is no such file") from None
    except Exception as error:  # of many kinds, IndexError among them, for what is no checkpoint
        problem = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{checkpoint} must be a checkpoint saved by train.py: {problem}") from error


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

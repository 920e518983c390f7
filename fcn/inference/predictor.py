"""An image of any size to logits, probabilities or a mask: what a trained run is for."""

from __future__ import annotations

import math
import textwrap
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
from fcn.config import ConfigError, Inference, InferenceConfig, PublishedWeights, check_inference
from fcn.data.voc import to_rgb
from fcn.models.device import choose_device
from fcn.models.network import SegmentationNetwork
from fcn.runs.checkpoints import CheckpointError, check_finite, find_checkpoint, read_checkpoint


class Predictor:
    """A trained network that takes images.

    Attributes:
        network: the trained network, in evaluation mode.
        settings: how it is applied.
        classes: names in the order of the mask values.
    """

    def __init__(self, network: SegmentationNetwork, settings: InferenceConfig | None = None) -> None:
        """Take over `network`: it is moved to the device that `settings.accelerator` names.

        Raises:
            ConfigError: if the settings contradict each other, or ask for a GPU where there is none.
        """
        self.settings = settings or InferenceConfig()
        check_inference(self.settings)
        self.network = network.eval().to(choose_device(self.settings.accelerator))
        self.classes = network.config.data.classes

    def logits(self, image: Image.Image | NDArray[np.uint8]) -> Tensor:
        """Class scores of every pixel, float32 [C, H, W] on the CPU.

        Averaged over tiles; with `flip` or several `scales`, the logarithm of averaged probabilities.

        Args:
            image: PIL image of any mode, or uint8 [H, W, 3] in RGB; its pixels as stored.

        Raises:
            ValueError: as `to_pixels`.
        """
        pixels = torch.from_numpy(to_pixels(image))
        return self.batch_logits(pixels.permute(2, 0, 1).unsqueeze(0))[0].cpu()

    def probabilities(self, image: Image.Image | NDArray[np.uint8]) -> Tensor:
        """Probability of every class at every pixel, float32 [C, H, W] on the CPU; see `logits`."""
        return self.logits(image).softmax(dim=0)

    def predict(self, image: Image.Image | NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Class of every pixel, uint8 [H, W]; see `logits`."""
        mask: NDArray[np.uint8] = self.logits(image).argmax(dim=0).to(torch.uint8).numpy()
        return mask

    @torch.inference_mode()
    def batch_logits(self, images: Tensor) -> Tensor:
        """Class scores for images of one size, float32 [N, C, H, W] on the network's device; see `logits`.

        Args:
            images: uint8 [N, 3, H, W].
        """
        images = images.to(self.network.device)
        if not self.settings.flip and self.settings.scales == [1.0]:
            return self._scores(images)
        mirrorings = (False, True) if self.settings.flip else (False,)
        views = [(scale, mirrored) for mirrored in mirrorings for scale in self.settings.scales]
        # Added one by one, so that memory does not grow with the views; as logarithms, so that a probability too
        # small for float32 does not become the logarithm of zero.
        total = self._view(images, *views[0])
        for view in views[1:]:
            total = torch.logaddexp(total, self._view(images, *view))
        return total - math.log(len(views))

    def _view(self, images: Tensor, scale: float, mirrored: bool) -> Tensor:
        """Logarithms of probabilities, found at `scale` or in the mirror, brought back to the frame of `images`."""
        view = _scaled(images, scale)
        scores = self._scores(view.flip(-1) if mirrored else view)
        scores = F.interpolate(scores, images.shape[-2:], mode="bilinear", align_corners=False)
        return (scores.flip(-1) if mirrored else scores).log_softmax(dim=1)

    def _scores(self, images: Tensor) -> Tensor:
        """Logits of the network at the size of `images`, float32 [N, C, H, W]."""
        if self.settings.inference is Inference.whole:
            logits: Tensor = self.network(images)
            return logits.float()
        size = images.shape[-2:]
        total = torch.zeros(len(images), len(self.classes), *size, device=images.device)
        count = torch.zeros(size, device=images.device)
        for rows, columns in tiles(size, self.settings.tile_size):
            total[..., rows, columns] += self.network(images[..., rows, columns]).float()
            count[rows, columns] += 1
        return total.div_(count)


def to_pixels(image: Image.Image | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An image as uint8 [H, W, 3] in RGB; a copy.

    Args:
        image: PIL image of any mode but F, or uint8 [H, W, 3] in RGB; its pixels as stored.

    Raises:
        ValueError: if it is anything else, or has no pixel.
    """
    if isinstance(image, Image.Image) and image.mode == "F":
        raise ValueError("image (mode F) must hold integer pixels, whose range is known; scale it to 8-bit RGB")
    pixels = np.array(to_rgb(image) if isinstance(image, Image.Image) and min(image.size) else image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        given = f"shape {list(pixels.shape)}, {pixels.dtype}"
        raise ValueError(f"image ({given}) must be uint8 [H, W, 3] in RGB, 0 to 255; convert it, or give a PIL image")
    return pixels


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


def load(run: str | Path, settings: InferenceConfig | None = None) -> Predictor:
    """Predictor of a run directory (its best checkpoint, or the last if there is no best) or of a checkpoint file.

    Raises:
        CheckpointError: if there is no checkpoint, or it does not load.
    """
    return Predictor(load_network(find_checkpoint(run)), settings)


def load_network(checkpoint: Path) -> SegmentationNetwork:
    """Task with the weights of a checkpoint, on the CPU, in evaluation mode; no other file is needed.

    Raises:
        CheckpointError: if the file is absent, does not hold what a run of this project saves, or has a configuration
            that this version does not know.
    """
    content = read_checkpoint(checkpoint)
    check_finite(checkpoint, content["state_dict"])
    try:
        config = configuration.validate_run(content["config"])
    except ConfigError as error:
        raise CheckpointError(f"{checkpoint} must be a checkpoint of this version: {error}") from error
    # The checkpoint brings all weights: nothing is fetched only to be overwritten.
    bare = replace(
        config,
        backbone=replace(config.backbone, weights="none"),
        model=replace(config.model, weights=PublishedWeights.none),
    )
    network = SegmentationNetwork(bare)
    try:
        network.load_state_dict(content["state_dict"])
    except RuntimeError as error:
        listed = textwrap.shorten(" ".join(str(error).splitlines()[1:]), 200)
        raise CheckpointError(f"{checkpoint} must hold the weights of its own configuration: {listed}") from error
    return network.eval()


@torch.inference_mode()
def predict_logits(network: SegmentationNetwork, image: Tensor) -> Tensor:
    """Logits of a whole image at native size, float [C, H, W], on the network's device.

    Args:
        network: left in the mode, training or evaluation, in which it was.
        image: uint8 [3, H, W].
    """
    was_training = network.training
    network.eval()
    try:
        logits: Tensor = network(image.unsqueeze(0).to(network.device))
        return logits[0].float()
    finally:
        network.train(was_training)

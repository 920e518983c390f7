"""Predictor: logits, probabilities and masks of images of any size by a trained network, or by several."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fcn import config as configuration
from fcn.config import ConfigError, InferenceConfig, check_inference
from fcn.config.choices import Inference, InferencePrecision
from fcn.data.image_decoding import to_rgb
from fcn.inference.tiling import tiled_logits
from fcn.models.device import choose_device
from fcn.models.network import SegmentationNetwork, predicted_classes
from fcn.runs.checkpoints import CheckpointError, check_finite, find_checkpoint, read_checkpoint


class Predictor:
    """A trained network, or several whose class probabilities are averaged, with inference settings.

    Attributes:
        networks: the trained networks, in evaluation mode.
        settings: whole or tiled inference, flip and scales.
        classes: names in the order of the mask values.
    """

    def __init__(
        self, networks: SegmentationNetwork | Sequence[SegmentationNetwork], settings: InferenceConfig | None = None
    ) -> None:
        """Move the networks to the device that `settings.accelerator` selects, in evaluation mode.

        Raises:
            ConfigError: if settings are invalid, the networks have different classes, or a GPU is required and none is
                available.
        """
        self.settings = settings or InferenceConfig()
        check_inference(self.settings)
        networks = networks if isinstance(networks, Sequence) else [networks]
        self.classes = networks[0].config.data.classes
        for number, network in enumerate(networks, start=1):
            if network.config.data.classes != self.classes:
                classes = ",".join(network.config.data.classes)
                raise ConfigError(
                    f"run {number} (classes {classes}) must have the classes of run 1 ({','.join(self.classes)}), "
                    "because their probabilities are averaged; leave it out"
                )
        device = choose_device(self.settings.accelerator)
        self.networks = [network.eval().to(device) for network in networks]

    @property
    def network(self) -> SegmentationNetwork:
        """The network, or the first of several."""
        return self.networks[0]

    def logits(self, image: Image.Image | NDArray[np.uint8]) -> Tensor:
        """Return the class scores of every pixel, float32 [C, H, W] on the CPU.

        Tiles are averaged; with `flip`, several `scales` or several networks, the scores are the logarithm of averaged
        probabilities.

        Args:
            image: PIL image of any mode, or uint8 [H, W, 3] in RGB. EXIF orientation is not applied.

        Raises:
            ValueError: as `to_pixels`.
        """
        pixels = torch.from_numpy(to_pixels(image))
        return self.batch_logits(pixels.permute(2, 0, 1).unsqueeze(0))[0].cpu()

    def probabilities(self, image: Image.Image | NDArray[np.uint8]) -> Tensor:
        """Return the probability of every class at every pixel, float32 [C, H, W] on the CPU; see `logits`."""
        return self.logits(image).softmax(dim=0)

    def predict(self, image: Image.Image | NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the class of every pixel, uint8 [H, W]; see `logits`."""
        return to_mask(self.logits(image))

    @torch.inference_mode()
    def batch_logits(self, images: Tensor) -> Tensor:
        """Return class scores for images of one size, float32 [N, C, H, W] on the network's device; see `logits`.

        Args:
            images: uint8 [N, 3, H, W].
        """
        images = images.to(self.network.device)
        if len(self.networks) == 1 and not self.settings.flip and self.settings.scales == [1.0]:
            return self._network_logits(self.network, images)
        flips = (False, True) if self.settings.flip else (False,)
        views = [
            (network, scale, flip) for network in self.networks for flip in flips for scale in self.settings.scales
        ]
        # One view at a time, so that memory does not grow with their number. Logarithms, because a probability that
        # underflows in float32 would become the logarithm of zero.
        total = self._view_log_probabilities(images, *views[0])
        for view in views[1:]:
            total = torch.logaddexp(total, self._view_log_probabilities(images, *view))
        return total - math.log(len(views))

    def _view_log_probabilities(self, images: Tensor, network: SegmentationNetwork, scale: float, flip: bool) -> Tensor:
        """Return log probabilities of the scaled or flipped images, mapped back to the pixels of `images`."""
        view = _resize(images, scale)
        logits = self._network_logits(network, view.flip(-1) if flip else view)
        logits = F.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=False)
        return (logits.flip(-1) if flip else logits).log_softmax(dim=1)

    def _network_logits(self, network: SegmentationNetwork, images: Tensor) -> Tensor:
        is_bf16 = self.settings.precision is InferencePrecision.bf16
        with torch.autocast(images.device.type, torch.bfloat16, enabled=is_bf16):
            if self.settings.inference is Inference.tiled:
                return tiled_logits(network, images, self.settings.tile_size, num_classes=len(self.classes))
            logits: Tensor = network(images)
            return logits.float()


def to_pixels(image: Image.Image | NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a copy of an image as uint8 [H, W, 3] in RGB.

    Args:
        image: PIL image of any mode but F, or uint8 [H, W, 3] in RGB.

    Raises:
        ValueError: if `image` is anything else, or has no pixels.
    """
    if isinstance(image, Image.Image) and image.mode == "F":
        raise ValueError("image (mode F) must hold integer pixels, whose range is known; scale it to 8-bit RGB")
    pixels = np.array(to_rgb(image) if isinstance(image, Image.Image) and min(image.size) else image)
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        given = f"shape {list(pixels.shape)}, {pixels.dtype}"
        raise ValueError(f"image ({given}) must be uint8 [H, W, 3] in RGB, 0 to 255; convert it, or give a PIL image")
    return pixels


def to_mask(logits: Tensor) -> NDArray[np.uint8]:
    """Return the class of highest score at every pixel, uint8 [H, W], the first of equal scores; logits [C, H, W]."""
    mask: NDArray[np.uint8] = predicted_classes(logits.unsqueeze(0))[0].numpy()
    return mask


def _resize(images: Tensor, scale: float) -> Tensor:
    """Return images at `scale` of their size, at least one pixel; float in [0, 1] unless the scale is 1."""
    if scale == 1:
        return images
    size = [max(1, round(side * scale)) for side in images.shape[-2:]]
    return F.interpolate(images / 255, size, mode="bilinear", align_corners=False, antialias=scale < 1)


def load(run: str | Path | Sequence[str | Path], settings: InferenceConfig | None = None) -> Predictor:
    """Load a run directory (its best checkpoint, or the last if there is no best) or a checkpoint file.

    The predictor of a list of runs averages their class probabilities; each network normalises the image itself.

    Raises:
        ConfigError: if the runs have different classes, or settings are invalid.
        CheckpointError: if there is no checkpoint, or it cannot be loaded.
    """
    members: Sequence[str | Path | None] = [run] if isinstance(run, (str, Path)) else [*run] or [None]
    checkpoints = [find_checkpoint(each) for each in members]
    return Predictor(list(map(load_network, checkpoints)), settings)


def load_network(checkpoint: Path) -> SegmentationNetwork:
    """Load the network of a checkpoint, on the CPU, in evaluation mode; no other file is needed.

    Raises:
        CheckpointError: if the file is missing, was not saved by this project, or has a configuration that this
            version does not accept.
    """
    content = read_checkpoint(checkpoint)
    check_finite(checkpoint, content["state_dict"])
    configuration.check_available(content["components"], needed_by=checkpoint)
    try:
        config = configuration.validate_saved(content["config"])
    except ConfigError as error:
        raise CheckpointError(f"{checkpoint} must be a checkpoint of this version: {error}") from error
    network = SegmentationNetwork(config, pretrained=False)
    try:
        network.load_state_dict(content["state_dict"])
    except RuntimeError as error:
        listed = textwrap.shorten(" ".join(str(error).splitlines()[1:]), 200)
        raise CheckpointError(f"{checkpoint} must hold the weights of its own configuration: {listed}") from error
    network.set_normalization(content["normalization"])
    return network.eval()


@torch.inference_mode()
def predict_logits(network: SegmentationNetwork, image: Tensor) -> Tensor:
    """Return the logits of a whole image at native size, float [C, H, W], on the network's device.

    Args:
        network: its training or evaluation mode is restored afterwards.
        image: uint8 [3, H, W].
    """
    was_training = network.training
    network.eval()
    try:
        logits: Tensor = network(image.unsqueeze(0).to(network.device))
        return logits[0].float()
    finally:
        network.train(was_training)

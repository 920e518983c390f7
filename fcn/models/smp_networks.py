"""Segmentation networks of segmentation_models_pytorch (smp): trained, evaluated and used by the same commands."""

from __future__ import annotations

from collections.abc import Iterator

import torch.nn.functional as F
from torch import Tensor, nn

from fcn.models.smp_architectures import fit_encoder
from fcn.models.smp_options import SmpBackbone, SmpModelConfig
from fcn.models.smp_weights import load_encoder_weights, normalization


class SmpNetwork(nn.Module):
    """A network of segmentation_models_pytorch for images of any size.

    The parameters keep smp's names below `network`. Those that do not affect the logits are frozen.

    Args:
        model: the group `model`.
        backbone: the group `backbone`.
        num_classes: number of classes, including the background.

    Attributes:
        mean: mean of the images for which the weights of the encoder were trained, for RGB in [0, 1].
        std: standard deviation of these images.

    Raises:
        ConfigError: if smp does not support the encoder.
        WeightsError: if weights cannot be loaded or do not fit.
    """

    def __init__(self, model: SmpModelConfig, backbone: SmpBackbone, *, num_classes: int) -> None:
        super().__init__()
        self._architecture = fit_encoder(model.name.value, backbone.name)
        self.mean, self.std = normalization(backbone.name, backbone.weights)
        self.network = self._architecture.create(num_classes)
        load_encoder_weights(self.network.encoder, backbone)
        for name, parameter in self.network.named_parameters():
            if name in self._architecture.unused:
                parameter.requires_grad_(False)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of every pixel, float [N, num_classes, H, W].

        Args:
            images: float [N, 3, H, W], normalised, of any size from 1 x 1.
        """
        height, width = images.shape[-2:]
        bottom, right = (self._architecture.padding(side) for side in (height, width))
        logits: Tensor = self.network(F.pad(images, (0, right, 0, bottom)))
        return logits[..., :height, :width]

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """Return the parameters outside the encoder."""
        return (parameter for name, parameter in self.named_parameters() if not name.startswith("network.encoder."))

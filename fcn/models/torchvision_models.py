"""torchvision's segmentation networks, to compare with: trained, evaluated and used by the same commands."""

from __future__ import annotations

from collections.abc import Iterator

import torchvision.models.segmentation as tv
from torch import Tensor, nn
from torchvision.models import get_model_weights

from fcn.config import VOC_CLASSES, BackboneConfig, ConfigError, ModelConfig
from fcn.config.choices import ModelName, PublishedWeights
from fcn.models.backbones import BACKBONES, load_backbone_weights
from fcn.models.weights import copy_weights, fetch

BUILDERS = {
    ModelName.fcn_resnet50: tv.fcn_resnet50,
    ModelName.fcn_resnet101: tv.fcn_resnet101,
    ModelName.deeplabv3_resnet50: tv.deeplabv3_resnet50,
    ModelName.lraspp_mobilenet_v3_large: tv.lraspp_mobilenet_v3_large,
}


class TorchvisionNetwork(nn.Module):
    """A network of torchvision.models.segmentation as torchvision builds it, without the auxiliary head.

    The parameters keep torchvision's names below `network`. ResNet backbones have an output stride of 8.

    Args:
        model: the group `model`; only `name` and `weights` mean something here.
        backbone: the group `backbone`; its weights are loaded.
        num_classes: classes, the background among them.

    Raises:
        ConfigError: if VOC's weights are asked for with other classes.
        WeightsError: if weights cannot be had or do not fit.
    """

    def __init__(self, model: ModelConfig, backbone: BackboneConfig, *, num_classes: int) -> None:
        super().__init__()
        builder = BUILDERS[model.name]
        self.network = builder(num_classes=num_classes, weights=None, weights_backbone=None)
        if model.weights is PublishedWeights.voc:
            _load_published(self.network, model, num_classes=num_classes)
        else:
            _load_backbone(self.network, backbone)

    def forward(self, images: Tensor) -> Tensor:
        """Logits of every pixel, float [N, num_classes, H, W], for normalised float images [N, 3, H, W]."""
        logits: Tensor = self.network(images)["out"]
        return logits

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters outside the backbone."""
        return (parameter for name, parameter in self.named_parameters() if not name.startswith("network.backbone."))


def _load_backbone(network: nn.Module, backbone: BackboneConfig) -> None:
    layers = network.get_submodule("backbone")
    if BACKBONES[backbone.name].ends[0].startswith("features."):  # torchvision takes a MobileNet's layers out of there
        layers = nn.ModuleDict({"features": layers})
    load_backbone_weights(layers, backbone)


def _load_published(network: nn.Module, model: ModelConfig, *, num_classes: int) -> None:
    key = f"model.weights (={model.weights})"
    if num_classes != len(VOC_CLASSES):
        raise ConfigError(f"{key} are for VOC's {len(VOC_CLASSES)} classes, not {num_classes}; use data=voc")
    source = get_model_weights(BUILDERS[model.name]).COCO_WITH_VOC_LABELS_V1
    state = fetch(source, key=key, remedy="or use model.weights=none")
    auxiliary = {name for name in state if name.startswith("aux_classifier.")}
    copy_weights(network, state, key=key, network=model.name.value, unused=auxiliary)

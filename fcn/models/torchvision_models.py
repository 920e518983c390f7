"""Segmentation networks of torchvision, for comparison: trained, evaluated and used by the same commands."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import get_model, get_model_weights

from fcn.config import VOC_CLASSES, ConfigError
from fcn.config.choices import PublishedWeights
from fcn.models.backbone_options import TorchvisionBackbone
from fcn.models.backbones import load_backbone_weights
from fcn.models.model_options import TorchvisionModelConfig
from fcn.models.weights import copy_weights, fetch


class TorchvisionNetwork(nn.Module):
    """A network of torchvision.models.segmentation, with its auxiliary head only if `model.auxiliary_weight` is not 0.

    The parameters keep torchvision's names below `network`. ResNet backbones have an output stride of 8.

    Args:
        model: the group `model`.
        backbone: the group `backbone`; its weights are loaded unless `model.weights` replaces them.
        num_classes: number of classes, including the background.

    Raises:
        ConfigError: if weights for VOC are requested with other classes.
        WeightsError: if weights cannot be loaded or do not fit.
    """

    def __init__(self, model: TorchvisionModelConfig, backbone: TorchvisionBackbone, *, num_classes: int) -> None:
        super().__init__()
        options = {"aux_loss": True} if model.auxiliary_weight else {}
        self.network = get_model(
            model.name.value, num_classes=num_classes, weights=None, weights_backbone=None, **options
        )
        if model.weights is PublishedWeights.voc:
            _load_published_weights(self.network, model, num_classes=num_classes)
            return
        layers = self.network.get_submodule("backbone")
        if backbone.name == "mobilenet_v3_large":  # torchvision moves its layers out of `features`
            layers = nn.ModuleDict({"features": layers})
        load_backbone_weights(layers, backbone)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return the logits of every pixel, float [N, num_classes, H, W]; in training also those of the auxiliary head.

        Args:
            images: float [N, 3, H, W], normalised.
        """
        if self.training or getattr(self.network, "aux_classifier", None) is None:
            outputs: dict[str, Tensor] = self.network(images)
            return (outputs["out"], outputs["aux"]) if "aux" in outputs else outputs["out"]
        # torchvision would also compute the auxiliary logits in evaluation.
        scores = self.network.classifier(self.network.backbone(images)["out"])
        return F.interpolate(scores, size=images.shape[-2:], mode="bilinear", align_corners=False)

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """Return the parameters outside the backbone."""
        return (parameter for name, parameter in self.named_parameters() if not name.startswith("network.backbone."))


def _load_published_weights(network: nn.Module, model: TorchvisionModelConfig, *, num_classes: int) -> None:
    key, name = f"model.weights (={model.weights})", model.name.value
    if num_classes != len(VOC_CLASSES):
        raise ConfigError(f"{key} needs VOC's {len(VOC_CLASSES)} classes, not {num_classes}; use data=voc")
    source = get_model_weights(name).COCO_WITH_VOC_LABELS_V1
    state = fetch(source, key=key, remedy="or use model.weights=none")
    auxiliary = {parameter for parameter in state if parameter.startswith("aux_classifier.")}
    copy_weights(network, state, key=key, network=name, unused=auxiliary)

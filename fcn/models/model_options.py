"""Options of the group `model`: the FCNs, and torchvision's segmentation networks for comparison."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from fcn.config import Config, ConfigError, ModelConfig, component, setting
from fcn.config.choices import Alignment, Border, Init, PublishedWeights, ScoreInit, TorchvisionModel
from fcn.models.backbone_options import TorchvisionBackbone

if TYPE_CHECKING:
    from torch import nn
    from typing_extensions import Self

    from fcn.models.fcn import FCN
    from fcn.models.torchvision_models import TorchvisionNetwork


@dataclass(kw_only=True)
class FcnConfig(ModelConfig):
    """Keys that all FCNs share."""

    num_skips: ClassVar[int]

    init: Init = setting(Init.bilinear, "initialisation of the transposed convolutions: bilinear or xavier")
    upsample_trainable: bool = setting(True, "train the transposed convolutions; false freezes them")
    score_init: ScoreInit = setting(
        ScoreInit.xavier,
        "initialisation of the coarsest score layer: xavier, normal (standard deviation 0.01) or zero; those of the "
        "skips are initialised to zero",
    )
    alignment: Alignment = setting(
        Alignment.chapter,
        "alignment of a transposed convolution of stride s; chapter: kernel size 2s and padding s/2, as in the d2l "
        "chapter; centered: the kernel is centred on the cells of the backbone's feature map",
    )
    border: Border = setting(
        Border.zero, "padding of the score map before upsampling: zero, or replicate (repeats the outermost cells)"
    )

    auxiliary_weight: float = setting(
        0.0,
        "factor of the loss of an auxiliary head on the second coarsest feature map, in training only; 0: no such head",
        low=0,
    )

    @property
    def num_maps(self) -> int:
        """Number of feature maps that the network uses, counted from the coarsest."""
        return max(self.num_skips + 1, 2 if self.auxiliary_weight else 1)

    @property
    def skip_factors(self) -> list[float]:
        """Factors of the skips, coarse to fine."""
        return []

    def build_score_layers(self, channels: int, num_classes: int) -> nn.Module:
        """Build the layers that compute the scores of the coarsest feature map, which has this number of channels."""
        from fcn.models.score_layers import score_layer

        return score_layer(channels, num_classes, init=self.score_init)

    def build_auxiliary_score_layers(self, channels: int, num_classes: int) -> nn.Module:
        """Build the layers that compute the scores of the auxiliary head."""
        from fcn.models.score_layers import score_layer

        return score_layer(channels, num_classes, init=ScoreInit.xavier)

    def describe(self, config: Config) -> str:
        extras = ["" if self.upsample_trainable else ", frozen", f", {self.alignment}", f", border {self.border}"]
        return f"{self.name} on {config.backbone.describe()}, {self.init} upsampling{''.join(extras)}"

    def build(self, config: Config) -> FCN:
        from fcn.models.fcn import FCN

        return FCN(config.backbone.build(), self, num_classes=len(config.data.classes))


@component("model", "fcn32s")
class Fcn32s(FcnConfig):
    """Scores of the coarsest feature map, upsampled at once. On ResNet-18, the network of the d2l chapter."""

    num_skips = 0


@dataclass(kw_only=True)
class _SkipFcn(FcnConfig):
    skip_scale: list[float] = setting([], "factors of the skips, coarse to fine", low=0)

    @property
    def skip_factors(self) -> list[float]:
        return self.skip_scale

    def check(self, config: Config) -> None:
        if len(self.skip_scale) != self.num_skips:
            numbers, example = (
                ("one number", "[1]") if self.num_skips == 1 else ("two numbers, coarse to fine", "[1,1]")
            )
            raise ConfigError(f"model.skip_scale (={self.skip_scale}) must be {numbers}: {example}")


@component("model", "fcn16s")
class Fcn16s(_SkipFcn):
    """FCN-32s with a skip from the second coarsest feature map."""

    num_skips = 1

    skip_scale: list[float] = setting([1.0], "factor of the skip; [0.01] for FCN-16s trained at once", low=0)


@component("model", "fcn8s")
class Fcn8s(_SkipFcn):
    """FCN-32s with skips from the second and the third coarsest feature map."""

    num_skips = 2

    skip_scale: list[float] = setting(
        [1.0, 1.0], "factors of the skips, from coarse to fine; use [0.01,1e-4] to train FCN-8s in one stage", low=0
    )


@dataclass(kw_only=True)
class _InterpolatedHead(FcnConfig):
    """Head whose scores are upsampled as by bilinear interpolation with `align_corners=False`."""

    num_skips = 0

    upsample_trainable: bool = setting(False, "train the transposed convolution; false freezes it")
    score_init: ScoreInit = setting(
        ScoreInit.normal, "initialisation of the score layer: xavier, normal (standard deviation 0.01) or zero"
    )
    border: Border = setting(
        Border.replicate, "padding of the score map before upsampling: zero, or replicate (repeats the outermost cells)"
    )


@component("model", "conv_head")
class ConvHead(_InterpolatedHead):
    """FCN head of mmsegmentation: 3x3 convolutions before the score layer, and bilinear interpolation."""

    channels: int = setting(
        512, "number of channels of the convolutions; the auxiliary head has one convolution with half of them", low=2
    )
    num_convs: int = setting(2, "number of 3x3 convolutions, each with batch norm and ReLU", low=1)
    concat_input: bool = setting(
        True, "add one more convolution, whose input is the feature map and the output of the others, concatenated"
    )
    dropout: float = setting(0.1, "probability that a channel is set to zero before the score layer", low=0, high=0.99)

    def build_score_layers(self, channels: int, num_classes: int) -> nn.Module:
        from fcn.models.score_layers import convolutional_score_layers

        return convolutional_score_layers(
            channels,
            num_classes,
            channels=self.channels,
            num_convs=self.num_convs,
            concat_input=self.concat_input,
            dropout=self.dropout,
            init=self.score_init,
        )

    def build_auxiliary_score_layers(self, channels: int, num_classes: int) -> nn.Module:
        auxiliary = replace(self, channels=self.channels // 2, num_convs=1, concat_input=False)
        return auxiliary.build_score_layers(channels, num_classes)


@component("model", "linear_head")
class LinearHead(_InterpolatedHead):
    """Batch norm and a 1x1 convolution, as in the linear evaluation of DINOv2, and bilinear interpolation."""

    def build_score_layers(self, channels: int, num_classes: int) -> nn.Module:
        from fcn.models.score_layers import linear_score_layers

        return linear_score_layers(channels, num_classes, init=self.score_init)

    def build_auxiliary_score_layers(self, channels: int, num_classes: int) -> nn.Module:
        return self.build_score_layers(channels, num_classes)


@component("model", "torchvision", backbone={"name": "${backbone_of:${model.name}}"})
class TorchvisionModelConfig(ModelConfig):
    """Segmentation network of torchvision, whose name determines the backbone."""

    name: TorchvisionModel = setting(TorchvisionModel.fcn_resnet50, "name of the network in torchvision.models")
    weights: PublishedWeights = setting(PublishedWeights.none, "voc: published weights for VOC's 21 classes")
    auxiliary_weight: float = setting(
        0.0, "factor of the loss of the network's auxiliary head, in training only; 0: no such head", low=0
    )

    @property
    def smallest_part(self) -> int:
        return 2 if self.name.value.startswith("deeplabv3") else 1  # batch norm after global pooling

    def untrained(self) -> Self:
        return replace(self, weights=PublishedWeights.none)

    def describe(self, config: Config) -> str:
        is_published = self.weights is not PublishedWeights.none
        weights = str(self.weights) if is_published else f"backbone: {config.backbone.weights}"
        return f"torchvision's {self.name} (weights: {weights})"

    def check(self, config: Config) -> None:
        if self.auxiliary_weight and self.name is TorchvisionModel.lraspp_mobilenet_v3_large:
            raise ConfigError(
                f"model.auxiliary_weight (={self.auxiliary_weight}) must be 0 for {self.name}, which has no auxiliary "
                "head; use model.name=fcn_resnet50 or deeplabv3_resnet50"
            )
        backbone = config.backbone
        if self.weights is not PublishedWeights.none and backbone.weights != "none":
            raise ConfigError(
                f"backbone.weights (={backbone.weights}) must be none with model.weights (={self.weights}), which "
                "contains the backbone; use backbone.weights=none"
            )
        stride = getattr(backbone, "output_stride", None)
        if not isinstance(backbone, TorchvisionBackbone) or backbone.name != self.name.backbone or stride:
            raise ConfigError(
                f"backbone.name (={backbone.name}) must be {self.name.backbone} and backbone.output_stride null for "
                f"model.name (={self.name}); leave out backbone=... and backbone.output_stride=..."
            )

    def build(self, config: Config) -> TorchvisionNetwork:
        from fcn.models.torchvision_models import TorchvisionNetwork

        assert isinstance(config.backbone, TorchvisionBackbone)
        return TorchvisionNetwork(self, config.backbone, num_classes=len(config.data.classes))

"""The option backbone=timm: any architecture of timm whose feature maps fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fcn.config import BackboneConfig, Config, ConfigError, component, setting
from fcn.config.choices import Alignment
from fcn.models.model_options import FcnConfig

if TYPE_CHECKING:
    from fcn.models.timm_architectures import Architecture
    from fcn.models.timm_backbones import TimmBackbone


@component("backbone", "timm")
class TimmConfig(BackboneConfig):
    """Feature maps of an architecture of timm."""

    name: str = setting(
        "resnet50", "architecture of timm, with or without the tag of its weights, such as resnet50.a1_in1k"
    )
    weights: str = setting(
        "none", "none (random), imagenet (the weights of the tag, or timm's default ones), or path of a state dict"
    )
    output_stride: int | None = setting(
        None, "stride of the coarsest feature map, reduced by dilation; null: not reduced", low=7, high=64
    )
    layer_decay: float | None = setting(
        None, "factor of the learning rate from each layer to the previous one, such as 0.75; null: 1", low=0.01, high=1
    )

    @property
    def smallest_part(self) -> int:
        return self._architecture().smallest_batch

    def describe(self) -> str:
        from fcn.models.timm_weights import describe_published

        weights = describe_published(self.name) if self.weights == "imagenet" else self.weights
        stride = f", output stride {self.output_stride}" if self.output_stride else ""
        return f"timm's {self.name} (weights: {weights}{stride})"

    def check(self, config: Config) -> None:
        architecture = self._architecture()
        if self.layer_decay is not None:
            from fcn.models.timm_backbones import check_layers

            check_layers(architecture)
        if isinstance(config.model, FcnConfig):
            self._check_head(config.model, architecture)

    def _check_head(self, model: FcnConfig, architecture: Architecture) -> None:
        if architecture.is_single and model.num_maps > 1:
            key = "model.auxiliary_weight" if model.auxiliary_weight else "model"
            value, required = (model.auxiliary_weight, "0") if model.auxiliary_weight else (model.name, "fcn32s")
            raise ConfigError(
                f"{key} (={value}) must be {required} on {self.name}, which has a single feature map, of stride "
                f"{architecture.strides[0]}; use {key}={required}"
            )
        if model.alignment is Alignment.centered:
            from fcn.models.timm_backbones import located_grids

            located_grids(architecture, model.num_maps)

    def build(self) -> TimmBackbone:
        from fcn.models.timm_backbones import build_timm_backbone

        return build_timm_backbone(self.name, weights=self.weights, output_stride=self.output_stride)

    def _architecture(self) -> Architecture:
        from fcn.models.timm_backbones import configured_architecture

        return configured_architecture(self.name, self.output_stride)

"""Options `model=smp` and `backbone=smp`: the networks of segmentation_models_pytorch, for comparison."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, NoReturn

from fcn.config import BackboneConfig, Config, ConfigError, ModelConfig, component, setting
from fcn.config.choices import SmpModel

if TYPE_CHECKING:
    from fcn.models.smp_networks import SmpNetwork


@component("backbone", "smp")
class SmpBackbone(BackboneConfig):
    """Encoder of segmentation_models_pytorch, for `model=smp`, which chooses this option."""

    name: str = setting(
        "resnet34", "name of the encoder in segmentation_models_pytorch, or tu- and the name of an architecture of timm"
    )
    weights: str = setting(
        "none",
        "none (random), imagenet or another name of smp's weights for the encoder (with tu-: imagenet only), or path "
        "of a state dict of the encoder",
    )

    @property
    def smallest_part(self) -> int:
        from fcn.models.smp_architectures import smallest_batch

        return smallest_batch(self.name)

    def check(self, config: Config) -> None:
        if not isinstance(config.model, SmpModelConfig):
            raise ConfigError(
                "backbone (=smp) must be the backbone of model=smp; use backbone=timm, which offers similar networks"
            )

    def build(self) -> NoReturn:
        raise TypeError("the network of model=smp builds its encoder itself")


@component("model", "smp", backbone="smp")
class SmpModelConfig(ModelConfig):
    """Segmentation network of segmentation_models_pytorch, whose encoder is `backbone.name`."""

    name: SmpModel = setting(SmpModel.unet, "architecture of segmentation_models_pytorch")

    @property
    def smallest_part(self) -> int:
        pooled = (SmpModel.deeplabv3, SmpModel.deeplabv3plus, SmpModel.pan, SmpModel.upernet)
        return 2 if self.name in pooled else 1  # batch norm after global pooling

    def describe(self, config: Config) -> str:
        return f"smp's {self.name} on {config.backbone.describe()}"

    def check(self, config: Config) -> None:
        if importlib.util.find_spec("segmentation_models_pytorch") is None:
            raise ConfigError('model (=smp) needs segmentation-models-pytorch; use pip install -e ".[smp]"')
        if not isinstance(config.backbone, SmpBackbone):
            raise ConfigError(
                f"backbone (={config.backbone.name}) must be smp for model=smp; use backbone=smp and backbone.name=..."
            )
        from fcn.models.smp_architectures import check_encoder, fit_encoder

        check_encoder(config.backbone.name)
        fit_encoder(self.name.value, config.backbone.name)

    def build(self, config: Config) -> SmpNetwork:
        from fcn.models.smp_networks import SmpNetwork

        assert isinstance(config.backbone, SmpBackbone)
        return SmpNetwork(self, config.backbone, num_classes=len(config.data.classes))

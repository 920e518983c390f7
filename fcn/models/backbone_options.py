"""Options of the group `backbone`: torchvision's classification networks as backbones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fcn.config import BackboneConfig, Config, component, setting

if TYPE_CHECKING:
    from fcn.models.backbones import Backbone

TORCHVISION_BACKBONES = (
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d", "wide_resnet50_2",
    "squeezenet1_0", "mobilenet_v3_large", "convnext_tiny", "vgg16", "vgg16_bn",
)  # fmt: skip
"""Names of the options; `fcn.models.backbones.BACKBONES` describes their layers."""


@dataclass(kw_only=True)
class TorchvisionBackbone(BackboneConfig):
    """Feature maps of a torchvision network."""

    weights: str = setting(
        "none",
        "none (random), imagenet (torchvision's IMAGENET1K_V1 weights), imagenet_v2 (IMAGENET1K_V2, where they exist), "
        "or path of a state dict",
    )
    output_stride: int | None = setting(
        None, "stride of the coarsest feature map, reduced by dilation; null: not reduced", low=8, high=32
    )

    def describe(self) -> str:
        stride = f", output stride {self.output_stride}" if self.output_stride else ""
        return f"{self.name} (weights: {self.weights}{stride})"

    def check(self, config: Config) -> None:
        if self.output_stride is not None:
            from fcn.models.backbones import check_output_stride

            check_output_stride(self)

    def build(self) -> Backbone:
        from fcn.models.backbones import build_backbone

        return build_backbone(self)


for _name in TORCHVISION_BACKBONES:
    _content = {"__doc__": f"torchvision's {_name}.", "__module__": __name__}
    # An attribute of the module, so that other processes unpickle this class and not a copy of it.
    globals()[_name] = component("backbone", _name)(type(_name, (TorchvisionBackbone,), _content))

"""Keys with a fixed set of values."""

from __future__ import annotations

from enum import Enum


class Choice(str, Enum):
    """Base of the enumerations. OmegaConf reads an enumeration by member name, so members are lower case."""

    def __str__(self) -> str:
        return str(self.value)


class DatasetName(Choice):
    shapes = "shapes"
    voc = "voc"


class Protocol(Choice):
    """voc: void pixels are ignored. d2l: void counts as background, see `DataConfig.protocol`."""

    voc = "voc"
    d2l = "d2l"


class BackboneName(Choice):
    resnet18 = "resnet18"
    resnet34 = "resnet34"
    resnet50 = "resnet50"
    resnet101 = "resnet101"
    resnet152 = "resnet152"
    resnext50_32x4d = "resnext50_32x4d"
    wide_resnet50_2 = "wide_resnet50_2"
    squeezenet1_0 = "squeezenet1_0"
    mobilenet_v3_large = "mobilenet_v3_large"
    convnext_tiny = "convnext_tiny"
    vgg16 = "vgg16"
    vgg16_bn = "vgg16_bn"


class ModelName(Choice):
    """The FCNs, and torchvision's segmentation networks for comparison, whose names are head_backbone."""

    fcn32s = "fcn32s"
    fcn16s = "fcn16s"
    fcn8s = "fcn8s"
    fcn_resnet50 = "fcn_resnet50"
    fcn_resnet101 = "fcn_resnet101"
    deeplabv3_resnet50 = "deeplabv3_resnet50"
    lraspp_mobilenet_v3_large = "lraspp_mobilenet_v3_large"

    @property
    def backbone(self) -> BackboneName | None:
        """Backbone of a torchvision network; None for the FCNs, which take any backbone."""
        _, _, name = self.value.partition("_")
        return BackboneName(name) if name else None


class Init(Choice):
    bilinear = "bilinear"
    xavier = "xavier"


class ScoreInit(Choice):
    xavier = "xavier"
    zero = "zero"


class Alignment(Choice):
    chapter = "chapter"
    centered = "centered"


class Border(Choice):
    zero = "zero"
    replicate = "replicate"


class Inference(Choice):
    whole = "whole"
    tiled = "tiled"


class PublishedWeights(Choice):
    none = "none"
    voc = "voc"


class Reduction(Choice):
    pixel_mean = "pixel_mean"
    image_sum = "image_sum"
    pixel_sum = "pixel_sum"


class OptimName(Choice):
    sgd = "sgd"
    adamw = "adamw"


class ScheduleName(Choice):
    constant = "constant"
    poly = "poly"
    cosine = "cosine"


class Accelerator(Choice):
    auto = "auto"
    cpu = "cpu"
    gpu = "gpu"


class Precision(Choice):
    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


class Algorithm(Choice):
    """Algorithm of a transposed convolution; see `fcn.models.upsampling`."""

    auto = "auto"
    transposed = "transposed"
    subpixel = "subpixel"


class ExportFormat(Choice):
    onnx = "onnx"
    torch_export = "torch_export"

    @property
    def suffix(self) -> str:
        return ".onnx" if self is ExportFormat.onnx else ".pt2"


class ImageType(Choice):
    """uint8: 0 to 255. float: float32 in [0, 1]."""

    uint8 = "uint8"
    float = "float"

"""Keys with a fixed set of values."""

from __future__ import annotations

from enum import Enum


class Choice(str, Enum):
    """Base of the enumerations. OmegaConf reads an enumeration by member name, so members are lower case."""

    def __str__(self) -> str:
        return str(self.value)


class Protocol(Choice):
    """voc: void pixels are ignored. d2l: void counts as background, see `DataConfig.protocol`."""

    voc = "voc"
    d2l = "d2l"


class MaskFormat(Choice):
    """What the class of a pixel is in the file of a mask; see `fcn.data.mask_formats.MaskReader`."""

    palette = "palette"
    index = "index"  # type: ignore[assignment]  # hides the method of str
    rgb = "rgb"


class Exif(Choice):
    """Use of the EXIF orientation of an image."""

    ignore = "ignore"
    apply = "apply"


class ProfilerName(Choice):
    """Profilers of Lightning, see `trainer.profiler`."""

    simple = "simple"
    advanced = "advanced"
    pytorch = "pytorch"


class Mode(Choice):
    """Whether smaller or larger values of a scalar are better."""

    auto = "auto"
    min = "min"
    max = "max"


class TorchvisionModel(Choice):
    """torchvision's segmentation networks, whose names are head_backbone."""

    fcn_resnet50 = "fcn_resnet50"
    fcn_resnet101 = "fcn_resnet101"
    deeplabv3_resnet50 = "deeplabv3_resnet50"
    deeplabv3_resnet101 = "deeplabv3_resnet101"
    deeplabv3_mobilenet_v3_large = "deeplabv3_mobilenet_v3_large"
    lraspp_mobilenet_v3_large = "lraspp_mobilenet_v3_large"

    @property
    def backbone(self) -> str:
        """Name of the backbone."""
        return self.value.partition("_")[2]


class SmpModel(Choice):
    """Architectures of segmentation_models_pytorch."""

    unet = "unet"
    unetplusplus = "unetplusplus"
    manet = "manet"
    linknet = "linknet"
    fpn = "fpn"
    pspnet = "pspnet"
    deeplabv3 = "deeplabv3"
    deeplabv3plus = "deeplabv3plus"
    pan = "pan"
    upernet = "upernet"
    segformer = "segformer"
    dpt = "dpt"


class Init(Choice):
    bilinear = "bilinear"
    xavier = "xavier"


class ScoreInit(Choice):
    xavier = "xavier"
    normal = "normal"
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


class Anneal(Choice):
    cosine = "cosine"
    linear = "linear"


class Accelerator(Choice):
    auto = "auto"
    cpu = "cpu"
    gpu = "gpu"


class Precision(Choice):
    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"
    fastest = "fastest"


class InferencePrecision(Choice):
    fp32 = "fp32"
    bf16 = "bf16"


class Layout(Choice):
    """Order of the values of images and feature maps in memory."""

    auto = "auto"
    channels_last = "channels_last"
    channels_first = "channels_first"
    fastest = "fastest"


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


class WandbMode(Choice):
    """Mode of Weights & Biases."""

    online = "online"
    offline = "offline"
    disabled = "disabled"

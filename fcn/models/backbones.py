"""Backbones of torchvision's classification networks as feature maps, without pooling and classifier.

`BACKBONES` says for each backbone where its maps end and where their cells lie: cell i of a map is centred at pixel
stride * i + offset. The heads place their upsampling by that, so that any backbone serves any head.

A new backbone is a member of `fcn.config.choices.BackboneName`, an entry of `BACKBONES` and a file in conf/backbone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
import torchvision.models as tv
from torch import Tensor, nn

from fcn.config import BackboneConfig, ConfigError
from fcn.config.choices import BackboneName
from fcn.models.upsampling import Grid
from fcn.models.weights import copy_weights, fetch, read_state_dict


@dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """What makes a torchvision network a backbone. Maps are listed fine to coarse.

    Attributes:
        builder: torchvision's function, which gives the randomly initialised network. The `imagenet` weights
            are its IMAGENET1K_V1.
        ends: dotted name of the module whose output is the map. The network's children after the last one are left out.
        strides: distance between neighbouring cells, in input pixels.
        channels: channels of the map.
        offsets: pixel at which cell 0 is centred; may lie outside the image.
        adapt: changes the built network in place.
        dilates: whether stages can be dilated instead of strided: where all striding is done by convolutions with
            padding of half their kernel.
        multiple: sides are padded with zeros, at the bottom and right, to a multiple of this, for networks that would
            drop an incomplete last cell.
    """

    builder: Callable[[], nn.Module]
    ends: tuple[str, ...]
    strides: tuple[int, ...] = (8, 16, 32)
    channels: tuple[int, ...]
    offsets: tuple[float, ...] = (0.0, 0.0, 0.0)
    adapt: Callable[[nn.Module], None] | None = None
    dilates: bool = False
    multiple: int = 1


def _resnet(builder: Callable[[], nn.Module], *channels: int) -> BackboneSpec:
    return BackboneSpec(builder=builder, ends=("layer2", "layer3", "layer4"), channels=channels, dilates=True)


def _vgg(builder: Callable[[], nn.Module], *ends: str) -> BackboneSpec:
    # pool3, pool4 and fc7. Without padding their cells would be centred at (stride - 1) / 2; 99 pixels more on
    # each side move them back, and fc6, which looks at 7 cells without padding, moves its own forth by 3 of 32.
    return BackboneSpec(
        builder=builder,
        ends=(*ends, "classifier.5"),
        channels=(256, 512, 4096),
        offsets=(3.5 - 99, 7.5 - 99, 15.5 - 99 + 3 * 32),
        adapt=_vgg_of_the_papers,
    )


def _vgg_of_the_papers(network: nn.Module) -> None:
    """Padding of 100, pools that keep an incomplete last cell, fc6 and fc7 as convolutions, no fc8.

    Source: the authors' networks (fcn.berkeleyvision.org); Long et al. 2015, section 4.1.
    """
    features, classifier = network.get_submodule("features"), network.get_submodule("classifier")
    first = features.get_submodule("0")
    assert isinstance(first, nn.Conv2d)
    first.padding = (100, 100)
    for layer in features.children():
        if isinstance(layer, nn.MaxPool2d):
            layer.ceil_mode = True
    convolutions = []
    for layer, kernel_size in zip(list(classifier.children())[:6], (7, 0, 0, 1, 0, 0), strict=True):
        if isinstance(layer, nn.Linear):
            channels = layer.in_features // kernel_size**2
            convolution = nn.Conv2d(channels, layer.out_features, kernel_size)
            convolution.load_state_dict(
                {"weight": layer.weight.view_as(convolution.weight), "bias": layer.bias}, assign=True
            )
            layer = convolution
        convolutions.append(layer)
    network.add_module("classifier", nn.Sequential(*convolutions))
    network.add_module("avgpool", nn.Identity())


def _pad_squeezenet(network: nn.Module) -> None:
    """Pad the strided layers by half their kernel, as a ResNet does.

    torchvision's SqueezeNet pads none of them: the cells of its last map lie at pixel 16 * i + 17, and an
    input needs 21 pixels. The weights are the same.
    """
    for layer in network.get_submodule("features").children():
        if isinstance(layer, nn.Conv2d):
            layer.padding = (3, 3)
        elif isinstance(layer, nn.MaxPool2d):
            layer.padding, layer.ceil_mode = 1, False


BACKBONES: dict[BackboneName, BackboneSpec] = {
    BackboneName.resnet18: _resnet(tv.resnet18, 128, 256, 512),
    BackboneName.resnet34: _resnet(tv.resnet34, 128, 256, 512),
    BackboneName.resnet50: _resnet(tv.resnet50, 512, 1024, 2048),
    BackboneName.resnet101: _resnet(tv.resnet101, 512, 1024, 2048),
    BackboneName.resnet152: _resnet(tv.resnet152, 512, 1024, 2048),
    BackboneName.resnext50_32x4d: _resnet(tv.resnext50_32x4d, 512, 1024, 2048),
    BackboneName.wide_resnet50_2: _resnet(tv.wide_resnet50_2, 512, 1024, 2048),
    BackboneName.squeezenet1_0: BackboneSpec(
        builder=tv.squeezenet1_0,
        ends=("features.5", "features.10", "features.12"),
        strides=(4, 8, 16),
        channels=(256, 512, 512),
        adapt=_pad_squeezenet,
    ),
    BackboneName.mobilenet_v3_large: BackboneSpec(
        builder=tv.mobilenet_v3_large,
        ends=("features.6", "features.12", "features.16"),
        channels=(40, 112, 960),
        dilates=True,
    ),
    BackboneName.convnext_tiny: BackboneSpec(
        builder=tv.convnext_tiny,
        ends=("features.3", "features.5", "features.7"),
        channels=(192, 384, 768),
        offsets=(3.5, 7.5, 15.5),
        multiple=32,
    ),
    BackboneName.vgg16: _vgg(tv.vgg16, "features.16", "features.23"),
    BackboneName.vgg16_bn: _vgg(tv.vgg16_bn, "features.23", "features.33"),
}


class Backbone(nn.Module):
    """The three coarsest feature maps of a torchvision network.

    The parameters keep torchvision's names below `layers`, such as `layers.layer1.0.conv1.weight`.

    Args:
        network: the torchvision network; its modules are taken over, not copied.
        spec: its entry in `BACKBONES`.

    Attributes:
        grids: where the cells of each map lie, fine to coarse.
        channels: of each map, fine to coarse.
    """

    def __init__(self, network: nn.Module, spec: BackboneSpec) -> None:
        super().__init__()
        self.grids = tuple(Grid(stride, offset) for stride, offset in zip(spec.strides, spec.offsets, strict=True))
        self.channels = spec.channels
        self.layers = nn.Sequential()
        last = spec.ends[-1].split(".")[0]
        for name, child in network.named_children():
            self.layers.add_module(name, child)
            if name == last:
                break
        self._multiple = spec.multiple
        self._ends = spec.ends
        self._steps = tuple(_steps(self.layers, ends=spec.ends))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Feature maps, fine to coarse.

        Args:
            images: float [N, 3, H, W], normalised, H and W from 1 up.

        Returns:
            One float [N, channels, h, w] for each grid. Its cells cover the image: h = ceil(H / stride), and for
            VGG, which pads, a few more.
        """
        maps = []
        height, width = images.shape[-2:]
        features = images
        if self._multiple > 1:
            features = F.pad(images, (0, _missing(width, self._multiple), 0, _missing(height, self._multiple)))
        for step in self._steps:
            features = self.layers.get_submodule(step)(features)
            if step in self._ends:
                maps.append(features)
        return maps

    def dilate(self, output_stride: int) -> None:
        """Take the striding beyond `output_stride` out and dilate what follows: as many weights, finer maps.

        A strided convolution still looks at the cells that it looked at; those after it are spread. For
        ResNets this is torchvision's `replace_stride_with_dilation`.
        """
        strides = iter(grid.stride for grid in self.grids)
        stride, dilation = next(strides), 1
        for step in self._steps:
            for layer in self.layers.get_submodule(step).modules():
                if stride > output_stride and isinstance(layer, nn.Conv2d):
                    _spread(layer, dilation)
                    if layer.stride != (1, 1):
                        layer.stride, dilation = (1, 1), stride // output_stride
            if step in self._ends:
                stride = next(strides, stride)
        self.grids = tuple(replace(grid, stride=min(grid.stride, output_stride)) for grid in self.grids)


def _missing(side: int, multiple: int) -> int:
    # Not -side % multiple: torch.export reasons about divisions and not about the remainder of a negative number.
    return (side + multiple - 1) // multiple * multiple - side


def _spread(layer: nn.Conv2d, dilation: int) -> None:
    if layer.kernel_size != (1, 1):
        layer.dilation = (dilation, dilation)
        layer.padding = tuple((side - 1) // 2 * dilation for side in layer.kernel_size)


def _steps(module: nn.Module, *, ends: Collection[str], prefix: str = "") -> Iterator[str]:
    """Dotted names of the modules to run in turn; a child inside which a map ends is entered."""
    for name, child in module.named_children():
        path = prefix + name
        if any(end.startswith(f"{path}.") for end in ends):
            yield from _steps(child, ends=ends, prefix=f"{path}.")
        else:
            yield path


def build_backbone(config: BackboneConfig) -> Backbone:
    """Backbone with the weights that `config.weights` names, dilated to `config.output_stride`.

    `none` leaves torchvision's random initialisation. `imagenet` fetches torchvision's IMAGENET1K_V1 file
    unless it lies in torch hub's folder. Anything else is the path of a state dict of torchvision's network,
    with or without its classifier.

    Raises:
        ConfigError: if the backbone cannot have this output stride.
        WeightsError: if the file is missing, cannot be fetched or read, or does not fit the backbone.
    """
    spec = BACKBONES[config.name]
    network = spec.builder()
    if spec.adapt:
        spec.adapt(network)
    backbone = _dilated(Backbone(network, spec), spec, config)
    load_backbone_weights(backbone.layers, config)
    return backbone


def load_backbone_weights(module: nn.Module, config: BackboneConfig) -> None:
    """Copy the weights that `config.weights` names into a module with torchvision's names.

    Raises:
        WeightsError: if they cannot be had or do not fit.
    """
    key = f"backbone.weights (={config.weights})"
    if config.weights == "none":
        return
    if config.weights == "imagenet":
        source = tv.get_model_weights(BACKBONES[config.name].builder).IMAGENET1K_V1
        state = fetch(source, key=key, remedy="or use backbone.weights=none or the path of a state dict")
    else:
        state = read_state_dict(config.weights)
    with torch.device("meta"):  # names alone, the classifier's among them
        whole = BACKBONES[config.name].builder().state_dict()
    copy_weights(module, state, key=key, network=config.name.value, unused=whole)


def _dilated(backbone: Backbone, spec: BackboneSpec, config: BackboneConfig) -> Backbone:
    """The backbone at the configured output stride."""
    output_stride = config.output_stride
    if output_stride is None:
        return backbone
    allowed = [stride for stride in spec.strides if stride >= 8] if spec.dilates else [spec.strides[-1]]
    if output_stride not in allowed:
        raise ConfigError(
            f"backbone.output_stride (={output_stride}) must be {' or '.join(map(str, allowed))} on {config.name}; "
            "use null, or a ResNet or MobileNet, which can be dilated"
        )
    backbone.dilate(output_stride)
    return backbone

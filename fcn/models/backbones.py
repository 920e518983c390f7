"""Backbones: torchvision's classification networks as feature maps, without pooling and classifier.

`BACKBONES` gives, for each backbone, the modules that compute the maps and where the cells of the maps lie: cell i is
centred at pixel stride * i + offset. The heads place their upsampling accordingly, so any head fits any backbone.

To add a torchvision backbone, add its name to `fcn.models.backbone_options` and an entry to `BACKBONES`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
import torchvision.models as tv
from torch import Tensor, nn

from fcn.config import ConfigError
from fcn.models.backbone_options import TorchvisionBackbone
from fcn.models.upsampling import Grid
from fcn.models.weights import WeightsError, copy_weights, fetch, read_state_dict


@dataclass(frozen=True, kw_only=True)
class BackboneSpec:
    """How a torchvision network is used as a backbone. Maps are listed from fine to coarse.

    Attributes:
        outputs: dotted names of the modules whose outputs are the maps. Children after the last one are dropped.
        strides: distance between neighbouring cells, pixels.
        channels: number of channels of each map.
        offsets: pixel at which cell 0 is centred; may lie outside the image.
        adapt: modifies the network in place before it is used.
        dilates: whether dilation can replace striding: all striding must be done by convolutions that are padded by
            half their kernel.
        multiple: images are padded with zeros at the bottom and right to a multiple of this size, for networks that
            would drop an incomplete last cell.
    """

    outputs: tuple[str, ...]
    strides: tuple[int, ...] = (8, 16, 32)
    channels: tuple[int, ...]
    offsets: tuple[float, ...] = (0.0, 0.0, 0.0)
    adapt: Callable[[nn.Module], None] | None = None
    dilates: bool = False
    multiple: int = 1


def _vgg_of_the_papers(network: nn.Module) -> None:
    """Use a padding of 100, pools that keep an incomplete last cell, and fc6 and fc7 as convolutions; drop fc8.

    Source: the authors' networks (fcn.berkeleyvision.org); Long et al. 2015, section 4.1.
    """
    features, classifier = network.get_submodule("features"), network.get_submodule("classifier")
    first = features.get_submodule("0")
    assert isinstance(first, nn.Conv2d)
    first.padding = (100, 100)
    for layer in features.children():
        if isinstance(layer, nn.MaxPool2d):
            layer.ceil_mode = True
    layers = list(classifier.children())[:6]
    for index, kernel_size in ((0, 7), (3, 1)):
        linear = layers[index]
        assert isinstance(linear, nn.Linear)
        convolution = nn.Conv2d(linear.in_features // kernel_size**2, linear.out_features, kernel_size)
        weight = linear.weight.view_as(convolution.weight)
        convolution.load_state_dict({"weight": weight, "bias": linear.bias}, assign=True)
        layers[index] = convolution
    network.add_module("classifier", nn.Sequential(*layers))
    network.add_module("avgpool", nn.Identity())


def _pad_squeezenet(network: nn.Module) -> None:
    """Pad the strided layers by half their kernel, as in a ResNet; the weights are unchanged.

    Without padding, as in torchvision, the cells of the last map would lie at pixel 16 * i + 17, and images would
    need at least 21 pixels.
    """
    for layer in network.get_submodule("features").children():
        if isinstance(layer, nn.Conv2d):
            layer.padding = (3, 3)
        elif isinstance(layer, nn.MaxPool2d):
            layer.padding, layer.ceil_mode = 1, False


def _resnet(*channels: int) -> BackboneSpec:
    return BackboneSpec(outputs=("layer2", "layer3", "layer4"), channels=channels, dilates=True)


def _vgg(pool3: str, pool4: str) -> BackboneSpec:
    # Without padding, the cells of pool3, pool4 and pool5 would be centred at (stride - 1) / 2. The additional padding
    # of 99 pixels moves them back; fc6, which spans 7 cells without padding, moves its own forward by 3 cells of 32.
    return BackboneSpec(
        outputs=(pool3, pool4, "classifier.5"),
        channels=(256, 512, 4096),
        offsets=(3.5 - 99, 7.5 - 99, 15.5 - 99 + 3 * 32),
        adapt=_vgg_of_the_papers,
    )


BACKBONES: dict[str, BackboneSpec] = {
    "resnet18": _resnet(128, 256, 512),
    "resnet34": _resnet(128, 256, 512),
    "resnet50": _resnet(512, 1024, 2048),
    "resnet101": _resnet(512, 1024, 2048),
    "resnet152": _resnet(512, 1024, 2048),
    "resnext50_32x4d": _resnet(512, 1024, 2048),
    "wide_resnet50_2": _resnet(512, 1024, 2048),
    "squeezenet1_0": BackboneSpec(
        outputs=("features.5", "features.10", "features.12"),
        strides=(4, 8, 16),
        channels=(256, 512, 512),
        adapt=_pad_squeezenet,
    ),
    "mobilenet_v3_large": BackboneSpec(
        outputs=("features.6", "features.12", "features.16"), channels=(40, 112, 960), dilates=True
    ),
    "convnext_tiny": BackboneSpec(
        outputs=("features.3", "features.5", "features.7"),
        channels=(192, 384, 768),
        offsets=(3.5, 7.5, 15.5),
        multiple=32,
    ),
    "vgg16": _vgg("features.16", "features.23"),
    "vgg16_bn": _vgg("features.23", "features.33"),
}


PUBLISHED = {"imagenet": "IMAGENET1K_V1", "imagenet_v2": "IMAGENET1K_V2"}
"""Values of `backbone.weights` that stand for torchvision's weights."""


class Backbone(nn.Module):
    """The three coarsest feature maps of a torchvision network.

    The parameters keep torchvision's names below `layers`, such as `layers.layer1.0.conv1.weight`.

    Args:
        network: the torchvision network; its modules are used, not copied.
        spec: its entry in `BACKBONES`.

    Attributes:
        grids: positions of the cells of each map, from fine to coarse.
        channels: number of channels of each map, from fine to coarse.
    """

    def __init__(self, network: nn.Module, spec: BackboneSpec) -> None:
        super().__init__()
        self.grids = tuple(Grid(stride, offset) for stride, offset in zip(spec.strides, spec.offsets, strict=True))
        self.channels = spec.channels
        self.layers = nn.Sequential()
        last = spec.outputs[-1].split(".")[0]
        for name, child in network.named_children():
            self.layers.add_module(name, child)
            if name == last:
                break
        self._multiple = spec.multiple
        self._outputs = spec.outputs
        self._steps = tuple(_steps(self.layers, outputs=spec.outputs))
        self._chains: dict[str, nn.Module] = {}  # in a dict, so that they are no submodules

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the feature maps, from fine to coarse.

        Args:
            images: float [N, 3, H, W], normalised, of any size from 1 x 1.

        Returns:
            One float [N, channels, h, w] for each grid. The cells cover the image: h = ceil(H / stride), or a few more
            for VGG, which pads the image.
        """
        maps = []
        features = images
        if self._multiple > 1:
            height, width = (_missing(side, self._multiple) for side in images.shape[-2:])
            features = F.pad(images, (0, width, 0, height))
        for step in self._chains or self._steps:
            features = (self._chains.get(step) or self.layers.get_submodule(step))(features)
            if step in self._outputs:
                maps.append(features)
        return maps

    def chain_layers(self) -> list[nn.Module]:
        """Join the layers from one feature map or pooling to the next, and return the modules, which `forward` calls.

        VGG consists of single layers, which do not belong to a block.
        """
        chains: list[list[str]] = [[]]
        for step in self._steps:
            chains[-1].append(step)
            if step in self._outputs or isinstance(self.layers.get_submodule(step), nn.MaxPool2d):
                chains.append([])
        self._chains = {steps[-1]: nn.Sequential(*map(self.layers.get_submodule, steps)) for steps in chains if steps}
        return list(self._chains.values())

    def dilate(self, output_stride: int) -> None:
        """Replace striding beyond `output_stride` by dilation, which makes the maps finer and keeps the weights.

        A convolution that was strided keeps its receptive field; the convolutions after it are dilated. For ResNets
        this equals torchvision's `replace_stride_with_dilation`.
        """
        strides = iter(grid.stride for grid in self.grids)
        stride, dilation = next(strides), 1
        for step in self._steps:
            for layer in self.layers.get_submodule(step).modules():
                if stride > output_stride and isinstance(layer, nn.Conv2d):
                    _dilate_convolution(layer, dilation)
                    if layer.stride != (1, 1):
                        layer.stride, dilation = (1, 1), stride // output_stride
            if step in self._outputs:
                stride = next(strides, stride)
        self.grids = tuple(replace(grid, stride=min(grid.stride, output_stride)) for grid in self.grids)


def _missing(side: int, multiple: int) -> int:
    # Not `-side % multiple`: torch.export cannot reason about the remainder of a negative number.
    return (side + multiple - 1) // multiple * multiple - side


def _dilate_convolution(layer: nn.Conv2d, dilation: int) -> None:
    if layer.kernel_size != (1, 1):
        layer.dilation = (dilation, dilation)
        layer.padding = tuple((side - 1) // 2 * dilation for side in layer.kernel_size)


def _steps(module: nn.Module, *, outputs: Collection[str], prefix: str = "") -> Iterator[str]:
    """Yield the dotted names of the modules to run in order; a child that contains an output is split further."""
    for name, child in module.named_children():
        path = prefix + name
        if any(output.startswith(f"{path}.") for output in outputs):
            yield from _steps(child, outputs=outputs, prefix=f"{path}.")
        else:
            yield path


def check_output_stride(config: TorchvisionBackbone) -> None:
    """Check that the network can be dilated to `config.output_stride`.

    Raises:
        ConfigError: if it cannot.
    """
    spec = BACKBONES[config.name]
    allowed = [stride for stride in spec.strides if stride >= 8] if spec.dilates else [spec.strides[-1]]
    if config.output_stride not in allowed:
        raise ConfigError(
            f"backbone.output_stride (={config.output_stride}) must be {' or '.join(map(str, allowed))} on "
            f"{config.name}; use null, or a ResNet or MobileNet, which can be dilated"
        )


def build_backbone(config: TorchvisionBackbone) -> Backbone:
    """Build the backbone with the weights of `config.weights`, dilated to `config.output_stride`.

    Raises:
        ConfigError: if the backbone does not support the output stride.
        WeightsError: if the weights cannot be loaded or do not fit the backbone.
    """
    spec = BACKBONES[config.name]
    network = tv.get_model(config.name)
    if spec.adapt:
        spec.adapt(network)
    backbone = Backbone(network, spec)
    if config.output_stride is not None:
        check_output_stride(config)
        backbone.dilate(config.output_stride)
    load_backbone_weights(backbone.layers, config)
    return backbone


def load_backbone_weights(module: nn.Module, config: TorchvisionBackbone) -> None:
    """Load the weights of `config.weights` into a module with torchvision's parameter names.

    `none` keeps the random initialisation. `imagenet` and `imagenet_v2` are torchvision's IMAGENET1K_V1 and _V2,
    downloaded unless the file is in torch hub's folder. Any other value is the path of a torchvision state dict, with
    or without classifier.

    Raises:
        WeightsError: if the weights cannot be loaded or do not fit.
    """
    key, name = f"backbone.weights (={config.weights})", config.name
    if config.weights == "none":
        return
    if config.weights in PUBLISHED:
        published = tv.get_model_weights(name).__members__
        if (version := PUBLISHED[config.weights]) not in published:
            raise WeightsError(f"{key} must exist for {name}, which has {', '.join(published)}; use imagenet")
        source = published[version]
        state = fetch(source, key=key, remedy="or use backbone.weights=none or the path of a state dict")
    else:
        state = read_state_dict(config.weights)
    with torch.device("meta"):  # only the names are needed, which include those of the classifier
        unused = tv.get_model(name).state_dict()
    copy_weights(module, state, key=key, network=name, unused=unused)

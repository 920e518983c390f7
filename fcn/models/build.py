"""From the configuration to a network, and from one network's weights to another's."""

from __future__ import annotations

from torch import nn

from fcn.config import BackboneConfig, ModelConfig
from fcn.models.backbones import build_backbone
from fcn.models.fcn import FCN
from fcn.models.torchvision_models import Baseline
from fcn.models.weights import StateDict

Network = FCN | Baseline


def build_model(model: ModelConfig, backbone: BackboneConfig, *, num_classes: int) -> Network:
    """The network of `model` on the trunk of `backbone`, initialised from torch's global generator.

    Raises:
        ConfigError: if model and backbone do not go together.
        WeightsError: if weights cannot be had or do not fit.
    """
    if model.name.trunk:
        return Baseline(model, backbone, num_classes=num_classes)
    return FCN(build_backbone(backbone), model, num_classes=num_classes)


def copy_fitting(network: nn.Module, state: StateDict) -> tuple[list[str], list[str], list[str]]:
    """Copy the weights of another network whose name and shape fit, as when FCN-16s goes on from FCN-32s.

    Nothing is copied if nothing of the trunk fits: score layers of two trunks may have the same shape (512
    channels on ResNet-18 and on SqueezeNet), and biases always have, but they read other features.

    Returns:
        Names that were copied; names of `network` that keep their initialisation; names of `state` that fit nowhere.
    """
    own = network.state_dict()
    fitting = {name: value for name, value in state.items() if name in own and own[name].shape == value.shape}
    if not any("backbone." in name for name in fitting):
        fitting = {}
    network.load_state_dict(fitting, strict=False)
    return list(fitting), [name for name in own if name not in fitting], [name for name in state if name not in fitting]

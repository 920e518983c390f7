"""What a user relies on: every head on every backbone, with either initialisation, learns.

The combinations of all are marked `exhaustive`, and run before a release; the default run has the small backbones.
"""

import functools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fcn.config import ModelConfig
from fcn.config.choices import BackboneName, Init, ModelName
from fcn.models.backbones import Backbone
from fcn.models.fcn import FCN
from tests.unit.models.backbone_cases import HEADS, build, every_backbone, every_head, every_init

SMALL = [BackboneName.squeezenet1_0, BackboneName.resnet18]
COLOURS = torch.tensor([[-1.0, 0.0, 1.0], [1.0, -1.0, 0.0], [0.0, 1.0, -1.0]])
STEPS = 100


@functools.lru_cache(maxsize=1)
def backbone_and_weights(name: BackboneName) -> tuple[Backbone, dict[str, Tensor]]:
    """A backbone for all tests in turn, and its random initial weights. Dropout is off: a few steps are to suffice."""
    torch.manual_seed(0)
    backbone = build(name)
    for layer in backbone.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    return backbone, {key: value.clone() for key, value in backbone.state_dict().items()}


def network(name: BackboneName, head: ModelName, init: Init) -> FCN:
    backbone, weights = backbone_and_weights(name)
    backbone.load_state_dict(weights)
    backbone.zero_grad(set_to_none=True)
    torch.manual_seed(1)
    return FCN(backbone, ModelConfig(name=head, init=init), num_classes=3)


def batch() -> tuple[Tensor, Tensor]:
    """Two images of 64x64, halves and quarters of noisy colours, and which colour is where."""
    torch.manual_seed(2)
    target = torch.ones(2, 64, 64, dtype=torch.long)
    target[0, :, 32:] = 2
    target[1, :32] = 0
    return COLOURS[target].movedim(-1, 1) + 0.1 * torch.randn(2, 3, 64, 64), target


def accuracy_after_training(model: FCN, *, backbone_lr: float) -> float:
    """Pixel accuracy on one batch after at most `STEPS` steps of Adam on it; ends as soon as it is above 0.95."""
    images, target = batch()
    backbone = {"params": model.backbone.parameters(), "lr": backbone_lr}
    optimizer = torch.optim.Adam([backbone, {"params": model.head_parameters()}], lr=1e-3)
    accuracy = 0.0
    for _ in range(STEPS):
        logits = model.train()(images)
        accuracy = float((logits.argmax(dim=1) == target).double().mean())
        if accuracy > 0.95:
            break
        optimizer.zero_grad()
        F.cross_entropy(logits, target).backward()
        optimizer.step()
    return accuracy


def assert_every_gradient_is_finite(model: FCN) -> None:
    model.train()(torch.randn(2, 3, 33, 47)).square().mean().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    # Zeroed skip layers let no gradient through at first, but get one; so does every other layer of the head.
    assert all(parameter.grad.any() for parameter in model.head_parameters())


def backbone_lr(name: BackboneName) -> float:
    """A step of Adam moves every weight alike: VGG's fc6 sums 25088 of them, and no norm takes that back."""
    return 2e-5 if name in (BackboneName.vgg16, BackboneName.vgg16_bn) else 1e-3


small = pytest.mark.parametrize("name", SMALL, ids=str)
large = pytest.mark.parametrize("name", [BackboneName.mobilenet_v3_large, BackboneName.convnext_tiny], ids=str)


@small
@every_head
@every_init
def test_every_parameter_gets_a_gradient(name: BackboneName, head: ModelName, init: Init) -> None:
    assert_every_gradient_is_finite(network(name, head, init))


@pytest.mark.parametrize(
    ("name", "head"), [(BackboneName.resnet18, HEADS[0]), *((BackboneName.squeezenet1_0, head) for head in HEADS)]
)
def test_one_batch_is_learned_by_heart(name: BackboneName, head: ModelName) -> None:
    model = network(name, head, Init.bilinear)
    assert accuracy_after_training(model, backbone_lr=backbone_lr(name)) > 0.95


@pytest.mark.slow
@large
def test_larger_backbones_learn_too(name: BackboneName) -> None:
    assert_every_gradient_is_finite(network(name, ModelName.fcn8s, Init.bilinear))
    model = network(name, ModelName.fcn8s, Init.bilinear)
    assert accuracy_after_training(model, backbone_lr=backbone_lr(name)) > 0.95


@pytest.mark.exhaustive
@every_backbone
@every_head
@every_init
def test_every_combination_learns(name: BackboneName, head: ModelName, init: Init) -> None:
    assert_every_gradient_is_finite(network(name, head, init))
    assert accuracy_after_training(network(name, head, init), backbone_lr=backbone_lr(name)) > 0.95

"""Every head on every backbone can be trained with both initialisations.

The default run covers the small backbones; all combinations are marked `exhaustive` and run before a release.
"""

import functools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fcn.config import option
from fcn.config.choices import Init
from fcn.models.backbones import Backbone
from fcn.models.fcn import FCN
from tests.unit.models.backbone_cases import HEADS, build, every_backbone, every_head, every_init

COLOURS = torch.tensor([[-1.0, 0.0, 1.0], [1.0, -1.0, 0.0], [0.0, 1.0, -1.0]])
STEPS = 100


@functools.lru_cache(maxsize=1)
def backbone_and_weights(name: str) -> tuple[Backbone, dict[str, Tensor]]:
    """Build the backbone shared by all tests and copy its initial weights. Without dropout, fewer steps suffice."""
    torch.manual_seed(0)
    backbone = build(name)
    for layer in backbone.modules():
        if isinstance(layer, nn.Dropout):
            layer.p = 0.0
    return backbone, {key: value.clone() for key, value in backbone.state_dict().items()}


def network(name: str, head: str, init: Init) -> FCN:
    backbone, weights = backbone_and_weights(name)
    backbone.load_state_dict(weights)
    backbone.zero_grad(set_to_none=True)
    torch.manual_seed(1)
    return FCN(backbone, option("model", head, init=init), num_classes=3)


def batch() -> tuple[Tensor, Tensor]:
    """Return two images of 64 x 64 whose halves have different noisy colours, and the class of each pixel."""
    torch.manual_seed(2)
    target = torch.ones(2, 64, 64, dtype=torch.long)
    target[0, :, 32:] = 2
    target[1, :32] = 0
    return COLOURS[target].movedim(-1, 1) + 0.1 * torch.randn(2, 3, 64, 64), target


def assert_overfits_one_batch(model: FCN, *, backbone_lr: float) -> None:
    """Train with Adam on one batch until the pixel accuracy exceeds 0.95; fail after `STEPS` steps."""
    images, target = batch()
    backbone = {"params": model.backbone.parameters(), "lr": backbone_lr}
    optimizer = torch.optim.Adam([backbone, {"params": model.head_parameters()}], lr=1e-3)
    for _ in range(STEPS):
        logits = model.train()(images)
        if (logits.argmax(dim=1) == target).double().mean() > 0.95:
            return
        optimizer.zero_grad()
        F.cross_entropy(logits, target).backward()
        optimizer.step()
    pytest.fail("the network does not overfit")


def assert_gradients_are_finite(model: FCN) -> None:
    model.train()(torch.randn(2, 3, 33, 47)).square().mean().backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())
    # Skip layers that start at zero receive a gradient like all layers of the head, but pass none on.
    assert all(parameter.grad.any() for parameter in model.head_parameters())


def backbone_lr(name: str) -> float:
    """Return a lower rate for VGG: a step of Adam moves all 25088 weights that fc6 sums, without a norm after it."""
    return 2e-5 if name in ("vgg16", "vgg16_bn") else 1e-3


@pytest.mark.parametrize("name", ["squeezenet1_0", "resnet18"], ids=str)
@every_head
@every_init
def test_every_parameter_has_finite_gradient(name: str, head: str, init: Init) -> None:
    assert_gradients_are_finite(network(name, head, init))


@pytest.mark.parametrize(("name", "head"), [("resnet18", HEADS[0]), *(("squeezenet1_0", head) for head in HEADS)])
def test_network_overfits_one_batch(name: str, head: str) -> None:
    assert_overfits_one_batch(network(name, head, Init.bilinear), backbone_lr=backbone_lr(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet_v3_large", "convnext_tiny"], ids=str)
def test_larger_backbones_overfit_one_batch(name: str) -> None:
    assert_gradients_are_finite(network(name, "fcn8s", Init.bilinear))
    assert_overfits_one_batch(network(name, "fcn8s", Init.bilinear), backbone_lr=backbone_lr(name))


@pytest.mark.exhaustive
@every_backbone
@every_head
@every_init
def test_every_combination_overfits_one_batch(name: str, head: str, init: Init) -> None:
    assert_gradients_are_finite(network(name, head, init))
    assert_overfits_one_batch(network(name, head, init), backbone_lr=backbone_lr(name))

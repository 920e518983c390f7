"""What a user relies on: scores of the image's size from every trunk, trainable, equal to the chapter's."""

from pathlib import Path

import pytest
import torch
import torchvision.models as tv
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from fcn.config import BackboneConfig, BackboneName, Init, ModelConfig
from fcn.models.backbones import WeightsError
from fcn.models.fcn import FCN32s, build_model

SMALL = BackboneName.squeezenet1_0


def build(
    name: BackboneName = SMALL,
    *,
    init: Init = Init.bilinear,
    trainable: bool = True,
    num_classes: int = 21,
    weights: str = "none",
) -> FCN32s:
    return build_model(
        ModelConfig(init=init, upsample_trainable=trainable),
        BackboneConfig(name=name, weights=weights),
        num_classes=num_classes,
    )


@pytest.mark.parametrize("init", list(Init), ids=lambda init: init.value)
@pytest.mark.parametrize("name", list(BackboneName), ids=lambda name: name.value)
def test_every_trunk_gives_scores_of_the_images_size(name: BackboneName, init: Init) -> None:
    with torch.device("meta"):  # shapes without values: the largest trunk takes no longer than the smallest
        model = build(name, init=init).eval()
        for size in [(1, 1), (375, 500)]:
            assert model(torch.empty(1, 3, *size)).shape == (1, 21, *size)


@given(height=st.integers(1, 70), width=st.integers(1, 70))
@settings(max_examples=25, deadline=None)
def test_any_size_gives_finite_scores_of_that_size(height: int, width: int) -> None:
    model = build(num_classes=3).eval()
    with torch.inference_mode():
        logits = model(torch.randn(2, 3, height, width))
    assert logits.shape == (2, 3, height, width)
    assert logits.isfinite().all()


@pytest.mark.parametrize("init", list(Init), ids=lambda init: init.value)
@pytest.mark.parametrize(
    "name",
    [BackboneName.resnet18, BackboneName.resnet50, BackboneName.squeezenet1_0],
    ids=lambda name: name.value,
)
def test_every_parameter_learns(name: BackboneName, init: Init) -> None:
    torch.manual_seed(0)
    model = build(name, init=init, num_classes=4)
    model(torch.randn(2, 3, 33, 47)).square().mean().backward()
    assert [key for key, parameter in model.named_parameters() if parameter.grad is None] == []
    assert all(parameter.grad.any() for parameter in model.head_parameters() if parameter.grad is not None)
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_a_frozen_upsampling_gets_no_gradient() -> None:
    model = build(trainable=False, num_classes=2)
    model(torch.randn(1, 3, 32, 32)).sum().backward()
    assert model.upscore.weight.grad is None
    assert model.upscore.bias is not None
    assert model.upscore.bias.grad is None
    assert model.score_fr.weight.grad is not None


def test_one_batch_can_be_learned_by_heart() -> None:
    torch.manual_seed(0)
    model = build(BackboneName.resnet18, num_classes=3)
    images = torch.randn(2, 3, 64, 64)
    target = torch.ones(2, 64, 64, dtype=torch.long)
    target[0, :, 32:] = 2
    target[1, :32] = 0
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(12):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), target)
        loss.backward()
        optimizer.step()
    accuracy = (model(images).argmax(dim=1) == target).double().mean()
    assert accuracy > 0.97


def chapters_network() -> nn.Sequential:
    """The network of "Dive into Deep Learning", section 14.11, with random weights throughout."""
    network = nn.Sequential(*list(tv.resnet18().children())[:-2])
    network.add_module("final_conv", nn.Conv2d(512, 21, kernel_size=1))
    network.add_module("transpose_conv", nn.ConvTranspose2d(21, 21, kernel_size=64, padding=16, stride=32))
    return network


@pytest.mark.parametrize("training", [True, False])
def test_scores_equal_the_chapters(tmp_path: Path, *, training: bool) -> None:
    chapter = chapters_network()
    names = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"]
    torch.save(
        {
            f"{name}.{key}": value
            for name, child in zip(names, list(chapter.children())[:-2], strict=True)
            for key, value in child.state_dict().items()
        },
        tmp_path / "trunk.pth",
    )
    model = build(BackboneName.resnet18, weights=str(tmp_path / "trunk.pth"))
    model.score_fr.load_state_dict(chapter.get_submodule("final_conv").state_dict())
    model.upscore.load_state_dict(chapter.get_submodule("transpose_conv").state_dict())
    images = torch.randn(2, 3, 320, 480)
    with torch.no_grad():
        ours, theirs = model.train(training)(images), chapter.train(training)(images)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_score_layer_is_glorot_uniform_with_zero_bias() -> None:
    layer = build(num_classes=21).score_fr
    bound = (6 / (512 + 21)) ** 0.5
    assert 0.99 * bound < layer.weight.abs().max() <= bound
    assert layer.bias is not None
    assert not layer.bias.any()


def test_a_side_that_is_no_multiple_is_cut_at_the_bottom_and_right() -> None:
    model = build(num_classes=2).eval()
    with torch.inference_mode():
        whole = model.upscore(model.score_fr(model.backbone(image := torch.randn(1, 3, 33, 47))[-1]))
        assert whole.shape[-2:] == (48, 48)
        assert torch.equal(model(image), whole[..., :33, :47])


@pytest.mark.parametrize("trainable", [True, False])
def test_head_and_trunk_share_out_the_parameters(*, trainable: bool) -> None:
    model = build(trainable=trainable)
    head = [id(parameter) for parameter in model.head_parameters()]
    layers = [*model.score_fr.parameters(), *model.upscore.parameters()]
    assert head == [id(parameter) for parameter in layers]
    trunk = [id(parameter) for parameter in model.backbone.parameters()]
    assert sorted(head + trunk) == sorted(id(parameter) for parameter in model.parameters())


def test_the_same_seed_gives_the_same_network() -> None:
    torch.manual_seed(5)
    first = build(init=Init.xavier).state_dict()
    torch.manual_seed(5)
    second = build(init=Init.xavier).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_weights_that_cannot_be_had_are_named() -> None:
    with pytest.raises(WeightsError, match="no such file"):
        build(weights="absent.pth")

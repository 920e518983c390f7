"""FCN heads: logits of the image's size on every backbone, skips, initialisation, equality with the d2l network."""

import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from fcn.config import option
from fcn.config.choices import Init, ScoreInit
from fcn.models.fcn import FCN
from fcn.models.upsampling import Grid
from tests.d2l import d2l_network
from tests.unit.models.backbone_cases import (
    HEADS,
    Maps,
    build_model,
    build_on_meta,
    every_backbone,
    every_head,
    map_sizes,
)


def build(
    backbone: str = "squeezenet1_0",
    *,
    head: str = "fcn32s",
    num_classes: int = 3,
    weights: str = "none",
    **config: object,
) -> FCN:
    model = build_model(
        option("model", head, **config), option("backbone", backbone, weights=weights), num_classes=num_classes
    )
    assert isinstance(model, FCN)
    return model


# --- sizes ---


@every_backbone
def test_logits_have_image_size_on_every_backbone(name: str) -> None:
    backbone = build_on_meta(name)
    with torch.device("meta"):
        for size in [(1, 1), (33, 47), (375, 500)]:
            sizes = zip(backbone.channels, map_sizes(name, None, *size), strict=True)
            maps = Maps([torch.empty(2, channels, *sides) for channels, sides in sizes], backbone.grids)
            for head, init in itertools.product(HEADS, Init):
                logits = FCN(maps, option("model", head, init=init), num_classes=21)(torch.empty(2, 3, *size))
                assert logits.shape == (2, 21, *size), (head, init)


@pytest.fixture(scope="module")
def fcn8s() -> FCN:
    return build(head="fcn8s").eval()


@given(height=st.integers(1, 70), width=st.integers(1, 70))
@settings(max_examples=25, deadline=None)
def test_logits_of_any_size_are_finite(fcn8s: FCN, height: int, width: int) -> None:
    with torch.inference_mode():
        logits = fcn8s(torch.randn(2, 3, height, width))
    assert logits.shape == (2, 3, height, width)
    assert logits.isfinite().all()


def test_logits_are_cropped_at_bottom_and_right() -> None:
    model, images = build().eval(), torch.randn(1, 3, 33, 47)
    with torch.inference_mode():
        complete = model.upscore(model.score_fr(model.backbone(images)[-1]))
        assert complete.shape[-2:] == (48, 48)
        assert torch.equal(model(images), complete[..., :33, :47])


# --- parameters ---


@every_head
@pytest.mark.parametrize("trainable", [True, False])
def test_head_and_backbone_partition_parameters(head: str, *, trainable: bool) -> None:
    with torch.device("meta"):
        model = build(head=head, upsample_trainable=trainable)
    head_ids = [id(parameter) for parameter in model.head_parameters()]
    upscores = [*model.skip_upscores, model.upscore]
    layers = [model.score_fr, *model.skip_scores, *upscores]
    assert sorted(head_ids) == sorted(id(parameter) for layer in layers for parameter in layer.parameters())
    backbone_ids = [id(parameter) for parameter in model.backbone.parameters()]
    assert sorted(head_ids + backbone_ids) == sorted(id(parameter) for parameter in model.parameters())
    assert all(p.requires_grad is trainable for layer in upscores for p in layer.parameters())


@every_head
@pytest.mark.parametrize("score_init", list(ScoreInit), ids=str)
def test_score_init_applies_to_coarsest_layer_and_skips_start_at_zero(head: str, score_init: ScoreInit) -> None:
    model = build(head=head, score_init=score_init)
    assert bool(model.score_fr.weight.any()) == (score_init is not ScoreInit.zero)
    assert not any(parameter.any() for parameter in model.skip_scores.parameters())


def test_score_layer_is_glorot_uniform_with_zero_bias() -> None:
    layer = build(num_classes=21).score_fr
    bound = (6 / (512 + 21)) ** 0.5
    assert 0.99 * bound < layer.weight.abs().max() <= bound
    assert layer.bias is not None
    assert not layer.bias.any()


def test_seed_determines_initial_weights() -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(5)
        states.append(build(init=Init.xavier).state_dict())
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


# --- skips ---

CORNERED = (Grid(8, 3.5), Grid(16, 7.5), Grid(32, 15.5))


def score(features: Tensor, layer: nn.Module) -> Tensor:
    weight, bias = layer.parameters()
    return torch.einsum("nchw,kc->nkhw", features, weight[..., 0, 0]) + bias[:, None, None]


def test_fcn8s_adds_scaled_skips_in_order() -> None:
    torch.manual_seed(0)
    fine, middle, coarse = torch.randn(2, 3, 8, 12), torch.randn(2, 4, 4, 6), torch.randn(2, 5, 2, 3)
    config = option("model", "fcn8s", skip_scale=[0.5, 0.25])
    model = FCN(Maps([fine, middle, coarse], CORNERED), config, num_classes=2)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    score_pool4, score_pool3 = model.skip_scores
    upscore2, upscore_pool4 = model.skip_upscores
    with torch.no_grad():
        scores = F.conv_transpose2d(score(coarse, model.score_fr), *upscore2.parameters(), stride=2, padding=1)
        scores = scores + score(0.5 * middle, score_pool4)
        scores = F.conv_transpose2d(scores, *upscore_pool4.parameters(), stride=2, padding=1)
        scores = scores + score(0.25 * fine, score_pool3)
        expected = F.conv_transpose2d(scores, *model.upscore.parameters(), stride=8, padding=4)
        torch.testing.assert_close(model(torch.empty(2, 3, 64, 96)), expected, rtol=1e-4, atol=1e-4)


# --- the d2l network ---


@pytest.mark.parametrize("training", [True, False])
def test_logits_equal_d2l_network(tmp_path: Path, *, training: bool) -> None:
    reference = d2l_network(21)
    names = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"]
    state = {
        f"{name}.{key}": value
        for name, child in zip(names, list(reference.children())[:-2], strict=True)
        for key, value in child.state_dict().items()
    }
    torch.save(state, tmp_path / "backbone.pth")
    model = build("resnet18", num_classes=21, weights=str(tmp_path / "backbone.pth"))
    model.score_fr.load_state_dict(reference.get_submodule("final_conv").state_dict())
    model.upscore.load_state_dict(reference.get_submodule("transpose_conv").state_dict())
    images = torch.randn(2, 3, 160, 224)
    with torch.no_grad():
        logits, expected = model.train(training)(images), reference.train(training)(images)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-6)

"""What a user relies on: scores of the image's size from every backbone, trainable, equal to the chapter's."""

import itertools
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from fcn.config import BackboneConfig, ModelConfig
from fcn.config.choices import BackboneName, Init, ModelName, ScoreInit
from fcn.models.fcn import FCN
from fcn.models.network import build_model
from fcn.models.upsampling import Grid
from fcn.models.weights import WeightsError
from tests.d2l import d2l_network
from tests.unit.models.backbone_cases import HEADS, Maps, every_backbone, every_head, map_sizes, shapes_only

SMALL = BackboneName.squeezenet1_0


def build(
    backbone: BackboneName = SMALL,
    *,
    head: ModelName = ModelName.fcn32s,
    num_classes: int = 21,
    weights: str = "none",
    **config: object,
) -> FCN:
    model = build_model(
        ModelConfig(name=head, **config), BackboneConfig(name=backbone, weights=weights), num_classes=num_classes
    )
    assert isinstance(model, FCN)
    return model


@every_backbone
def test_every_head_on_every_backbone_gives_scores_of_the_images_size(name: BackboneName) -> None:
    backbone = shapes_only(name)
    with torch.device("meta"):
        for size in [(1, 1), (33, 47), (375, 500)]:
            cells = zip(backbone.channels, map_sizes(name, None, *size), strict=True)
            maps = Maps([torch.empty(2, channels, *sides) for channels, sides in cells], backbone.grids)
            for head, init in itertools.product(HEADS, Init):
                logits = FCN(maps, ModelConfig(name=head, init=init), num_classes=21)(torch.empty(2, 3, *size))
                assert logits.shape == (2, 21, *size), (head, init)


@pytest.fixture(scope="module")
def eight() -> FCN:
    return build(num_classes=3, head=ModelName.fcn8s)


@given(height=st.integers(1, 70), width=st.integers(1, 70))
@settings(max_examples=25, deadline=None)
def test_any_size_gives_finite_scores_of_that_size(eight: FCN, height: int, width: int) -> None:
    model = eight.eval()
    with torch.inference_mode():
        logits = model(torch.randn(2, 3, height, width))
    assert logits.shape == (2, 3, height, width)
    assert logits.isfinite().all()


def test_a_frozen_upsampling_gets_no_gradient() -> None:
    model = build(upsample_trainable=False, num_classes=2)
    model(torch.randn(1, 3, 32, 32)).sum().backward()
    assert model.upscore.weight.grad is None
    assert model.upscore.bias is not None
    assert model.upscore.bias.grad is None
    assert model.score_fr.weight.grad is not None


# --- skips ---


def random_head(grids: tuple[Grid, ...], **config: object) -> FCN:
    """A head for two classes on maps of 3, 4 and 5 channels, with random weights throughout."""
    maps = [torch.randn(2, 3, 8, 12), torch.randn(2, 4, 4, 6), torch.randn(2, 5, 2, 3)]
    model = FCN(Maps(maps, grids), ModelConfig(**config), num_classes=2)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model.eval()


CORNERED = (Grid(8, 3.5), Grid(16, 7.5), Grid(32, 15.5))


def score(features: Tensor, layer: nn.Module) -> Tensor:
    weight, bias = layer.parameters()
    return torch.einsum("nchw,kc->nkhw", features, weight[..., 0, 0]) + bias[:, None, None]


def test_fcn8s_adds_the_skips_one_after_the_other() -> None:
    torch.manual_seed(0)
    model = random_head(CORNERED, name=ModelName.fcn8s, skip_scale=[0.5, 0.25])
    fine, middle, coarse = model.backbone.maps
    score_pool4, score_pool3 = model.skip_scores
    upscore2, upscore_pool4 = model.skip_upscores
    with torch.no_grad():
        scores = F.conv_transpose2d(score(coarse, model.score_fr), *upscore2.parameters(), stride=2, padding=1)
        scores = scores + score(0.5 * middle, score_pool4)
        scores = F.conv_transpose2d(scores, *upscore_pool4.parameters(), stride=2, padding=1)
        scores = scores + score(0.25 * fine, score_pool3)
        expected = F.conv_transpose2d(scores, *model.upscore.parameters(), stride=8, padding=4)
        torch.testing.assert_close(model(torch.empty(2, 3, 64, 96)), expected, rtol=1e-4, atol=1e-4)


def test_skips_start_at_zero() -> None:
    torch.manual_seed(0)
    model = build(num_classes=3, head=ModelName.fcn8s)
    for layer in model.skip_scores:
        assert [bool(parameter.any()) for parameter in layer.parameters()] == [False, False]
    assert model.score_fr.weight.any()


@every_head
@pytest.mark.parametrize("score_init", list(ScoreInit), ids=str)
def test_score_init_is_of_the_coarsest_layer(head: ModelName, score_init: ScoreInit) -> None:
    model = build(num_classes=3, head=head, score_init=score_init)
    assert bool(model.score_fr.weight.any()) == (score_init is ScoreInit.xavier)
    assert not any(parameter.any() for parameter in model.skip_scores.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_scores_equal_the_chapters(tmp_path: Path, *, training: bool) -> None:
    chapter = d2l_network(21)
    names = ["conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4"]
    torch.save(
        {
            f"{name}.{key}": value
            for name, child in zip(names, list(chapter.children())[:-2], strict=True)
            for key, value in child.state_dict().items()
        },
        tmp_path / "backbone.pth",
    )
    model = build(BackboneName.resnet18, weights=str(tmp_path / "backbone.pth"))
    model.score_fr.load_state_dict(chapter.get_submodule("final_conv").state_dict())
    model.upscore.load_state_dict(chapter.get_submodule("transpose_conv").state_dict())
    images = torch.randn(2, 3, 160, 224)
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


@every_head
@pytest.mark.parametrize("trainable", [True, False])
def test_head_and_backbone_share_out_the_parameters(head: ModelName, *, trainable: bool) -> None:
    with torch.device("meta"):
        model = build(head=head, upsample_trainable=trainable)
    heads = [id(parameter) for parameter in model.head_parameters()]
    layers = [model.score_fr, *model.skip_scores, *model.skip_upscores, model.upscore]
    assert sorted(heads) == sorted(id(parameter) for layer in layers for parameter in layer.parameters())
    backbone = [id(parameter) for parameter in model.backbone.parameters()]
    assert sorted(heads + backbone) == sorted(id(parameter) for parameter in model.parameters())
    assert all(
        p.requires_grad is trainable for layer in (*model.skip_upscores, model.upscore) for p in layer.parameters()
    )


def test_the_same_seed_gives_the_same_network() -> None:
    torch.manual_seed(5)
    first = build(init=Init.xavier).state_dict()
    torch.manual_seed(5)
    second = build(init=Init.xavier).state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_weights_that_cannot_be_had_are_named() -> None:
    with pytest.raises(WeightsError, match="no such file"):
        build(weights="absent.pth")

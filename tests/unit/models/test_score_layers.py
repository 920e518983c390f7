"""Score layers of `model=conv_head` and `model=linear_head` against plain PyTorch and torchvision."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.segmentation.fcn import FCNHead

from fcn.config import option
from fcn.config.choices import ScoreInit
from fcn.config.composition import compose
from fcn.models.fcn import FCN
from fcn.models.network import SegmentationNetwork
from fcn.models.score_layers import convolutional_score_layers, linear_score_layers, score_layer
from tests.unit.models.backbone_cases import build_model


def build(head: str, *, num_classes: int = 3, output_stride: int | None = 8, **keys: object) -> FCN:
    torch.manual_seed(0)
    backbone = option("backbone", "resnet18", output_stride=output_stride)
    model = build_model(option("model", head, **keys), backbone, num_classes=num_classes)
    assert isinstance(model, FCN)
    return model


def fcn_head_of_mmsegmentation(features: Tensor, state: dict[str, Tensor], *, training: bool) -> Tensor:
    """Return the scores of `FCNHead` with two convolutions and concat_input, without dropout, by functions of torch.

    Source: mmseg/models/decode_heads/fcn_head.py and decode_head.py.
    """

    def convolution(source: Tensor, name: str) -> Tensor:
        values = {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}
        outputs = F.conv2d(source, values["conv.weight"], padding=1)
        norm = (values[f"norm.{key}"].clone() for key in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(outputs, *norm, training=training).relu()

    outputs = convolution(convolution(features, "convs.layers.0"), "convs.layers.1")
    outputs = convolution(torch.cat([features, outputs], dim=1), "convs.last")
    return F.conv2d(outputs, state["score.weight"], state["score.bias"])


@pytest.mark.parametrize("training", [True, False])
def test_conv_head_is_the_fcn_head_of_mmsegmentation(*, training: bool) -> None:
    model = build("conv_head", channels=16, dropout=0.0).train(training)
    randomize_norms(model.score_fr)
    images = torch.randn(2, 3, 64, 96)
    state = {name: value.clone() for name, value in model.score_fr.state_dict().items()}
    with torch.no_grad():
        features = copy.deepcopy(model.backbone)(images)[-1]
        expected = fcn_head_of_mmsegmentation(features, state, training=training)
        logits = F.interpolate(expected, size=(64, 96), mode="bilinear", align_corners=False)
        torch.testing.assert_close(model(images), logits, rtol=1e-4, atol=1e-5)


def randomize_norms(module: nn.Module) -> None:
    """Give batch norms the statistics and parameters of a trained network."""
    for norm in module.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for value in (norm.running_var, norm.weight):
                assert value is not None
                nn.init.uniform_(value, 0.5, 2)
            for value in (norm.running_mean, norm.bias):
                assert value is not None
                nn.init.normal_(value)


def test_conv_head_covers_the_fcn_head_of_torchvision() -> None:
    layers = convolutional_score_layers(
        32, 5, channels=8, num_convs=1, concat_input=False, dropout=0.1, init=ScoreInit.normal
    )
    reference = FCNHead(32, 5)
    randomize_norms(reference)
    layers.load_state_dict(dict(zip(layers.state_dict(), reference.state_dict().values(), strict=True)))
    features = torch.randn(2, 32, 6, 9)
    assert torch.equal(layers.eval()(features), reference.eval()(features))


@pytest.mark.parametrize("training", [True, False])
def test_linear_head_is_batch_norm_and_linear_layer_of_every_cell(*, training: bool) -> None:
    layers = linear_score_layers(7, 4, init=ScoreInit.xavier).train(training)
    randomize_norms(layers)
    features = torch.randn(3, 7, 5, 6)
    cells = features.permute(0, 2, 3, 1).reshape(-1, 7)
    norm, score = layers.get_submodule("norm"), layers.get_submodule("score")
    assert isinstance(norm, nn.BatchNorm2d)
    assert isinstance(score, nn.Conv2d)
    mean, variance = (
        (cells.mean(0), cells.var(0, unbiased=False)) if training else (norm.running_mean, norm.running_var)
    )
    normalised = (cells - mean) / (variance + 1e-5).sqrt() * norm.weight + norm.bias
    expected = F.linear(normalised, score.weight.flatten(1), score.bias).view(3, 5, 6, 4).permute(0, 3, 1, 2)
    torch.testing.assert_close(layers(features), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("head", "output_stride"), [("conv_head", 8), ("linear_head", 16), ("linear_head", None)])
@pytest.mark.parametrize("size", [(64, 96), (33, 47), (1, 1)])
def test_upsampling_is_bilinear_interpolation_at_every_pixel(
    head: str, output_stride: int | None, size: tuple[int, int]
) -> None:
    model = build(head, output_stride=output_stride, score_init=ScoreInit.xavier).eval()
    images = torch.randn(1, 3, *size)
    with torch.inference_mode():
        scores = model.score_fr(model.backbone(images)[-1])
        interpolated = F.interpolate(scores, scale_factor=output_stride or 32, mode="bilinear", align_corners=False)
        expected = interpolated[..., : size[0], : size[1]]
        torch.testing.assert_close(model(images), expected, rtol=1e-4, atol=1e-5)


def test_auxiliary_conv_head_has_one_convolution_of_half_the_channels_on_the_second_coarsest_map() -> None:
    model = build("conv_head", channels=16, dropout=0.0, auxiliary_weight=0.4).eval()
    assert model.auxiliary is not None
    score = model.auxiliary.get_submodule("score")
    names = [name for name, parameter in score.named_parameters() if parameter.ndim == 4]
    assert names == ["convs.0.conv.weight", "score.weight"]
    assert score.get_parameter("convs.0.conv.weight").shape == (8, 256, 3, 3)
    images = torch.randn(2, 3, 64, 96)
    with torch.no_grad():
        features = model.backbone(images)[-2]
        expected = F.interpolate(score(features), size=(64, 96), mode="bilinear", align_corners=False)
        model.train()
        for module in (model.backbone, score):
            module.eval()
        torch.testing.assert_close(model(images)[1], expected, rtol=1e-4, atol=1e-5)


def test_auxiliary_linear_head_normalises_the_second_coarsest_map() -> None:
    model = build("linear_head", auxiliary_weight=0.4)
    assert model.auxiliary is not None
    assert model.auxiliary.get_submodule("score.norm").get_parameter("weight").shape == (256,)


def test_layers_start_as_in_mmsegmentation() -> None:
    """Convolutions as mmcv's ConvModule: normal, fan out, gain of ReLU; the score layer: normal with 0.01."""
    model = build("conv_head", num_classes=21, channels=128)
    weights = dict(model.score_fr.named_parameters())
    for name in ("convs.layers.0", "convs.layers.1", "convs.last"):
        assert weights[f"{name}.conv.weight"].std().item() == pytest.approx(math.sqrt(2 / (9 * 128)), rel=0.02)
        assert f"{name}.conv.bias" not in weights
    assert weights["score.weight"].std().item() == pytest.approx(0.01, rel=0.05)
    assert not weights["score.bias"].any()


def test_zero_and_xavier_apply_to_the_score_layer() -> None:
    assert not score_layer(512, 21, init=ScoreInit.zero).weight.any()
    weight = build("linear_head", num_classes=21, score_init=ScoreInit.xavier).score_fr.get_parameter("score.weight")
    assert weight.abs().max().item() == pytest.approx(math.sqrt(6 / (512 + 21)), rel=0.01)


def test_dropout_removes_whole_channels_in_training_only() -> None:
    layers = convolutional_score_layers(
        4, 3, channels=64, num_convs=1, concat_input=False, dropout=0.25, init=ScoreInit.xavier
    )
    dropout = layers.get_submodule("dropout")
    features = torch.ones(8, 64, 5, 7)
    dropped = dropout.train()(features)
    removed = (dropped == 0).flatten(2).all(2)
    assert removed.float().mean().item() == pytest.approx(0.25, abs=0.08)
    assert torch.equal(dropped[~removed], torch.full_like(dropped[~removed], 1 / 0.75))
    assert torch.equal(dropout.eval()(features), features)


def test_frozen_backbone_stays_in_evaluation_mode_and_saves_nothing_for_a_backward_pass() -> None:
    """Its activations would take most of the memory of a step, and its backward pass most of the time."""
    network = SegmentationNetwork(compose("model=linear_head", "backbone=resnet18", "backbone.trainable=false")).train()
    backbone, head = network.model.backbone, network.model.score_fr
    assert not any(module.training for module in backbone.modules())
    assert all(module.training for module in head.modules())
    maps: list[Tensor] = []
    hook = backbone.register_forward_hook(lambda _module, _images, outputs: maps.extend(outputs))
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda each: each):
        logits = network(torch.zeros(2, 3, 64, 64, dtype=torch.uint8))
    hook.remove()
    assert [each.requires_grad for each in maps] == 3 * [False]
    logits.sum().backward()
    with_gradient = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert with_gradient == {f"model.score_fr.{name}" for name, _ in head.named_parameters()}
    parameters = {parameter.data_ptr() for parameter in backbone.parameters()}
    assert saved
    assert not parameters & {tensor.data_ptr() for tensor in saved}

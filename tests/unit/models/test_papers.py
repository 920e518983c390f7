"""On VGG-16, the heads are the networks that the authors of the papers published."""

import functools

import pytest
import torch
import torchvision.models as tv
from torch import Tensor, nn
from torch.nn import functional as F

from fcn.config import option
from fcn.config.choices import Alignment, Border
from fcn.models.backbones import BACKBONES, Backbone
from fcn.models.fcn import FCN
from fcn.models.weights import copy_weights
from tests.unit.models.backbone_cases import Maps, build_on_meta, every_alignment, map_sizes

CROPS = {
    # Offsets of the Crop layers in voc-fcn{32,16,8}s/train.prototxt of fcn.berkeleyvision.org.
    "fcn32s": {"score": 19},
    "fcn16s": {"score_pool4c": 5, "score": 27},
    "fcn8s": {"score_pool4c": 5, "score_pool3c": 9, "score": 31},
}
KERNELS = {"fcn32s": (64,), "fcn16s": (4, 32), "fcn8s": (4, 4, 16)}


@every_alignment
@pytest.mark.parametrize("name", ["vgg16", "vgg16_bn"], ids=str)
@pytest.mark.parametrize("head", list(CROPS), ids=str)
def test_crops_and_kernels_equal_published_networks(head: str, name: str, alignment: Alignment) -> None:
    with torch.device("meta"):
        model = FCN(build_on_meta(name), option("model", head, alignment=alignment), num_classes=21)
    upscores = [*model.skip_upscores, model.upscore]
    assert tuple(layer.kernel_size[0] for layer in upscores) == KERNELS[head]
    assert all(layer.stride[0] * 2 == layer.kernel_size[0] for layer in upscores)
    # The last crop is the padding of the last layer; the others crop the skip.
    assert [*(layer.first for layer in model.skip_upscores), model.upscore.padding[0]] == list(CROPS[head].values())
    assert [layer.padding for layer in model.skip_upscores] == [(0, 0)] * (len(upscores) - 1)


def crop(features: Tensor, offset: int, size: tuple[int, int]) -> Tensor:
    """Apply Caffe's Crop layer."""
    rows, columns = (slice(offset, offset + side) for side in size)
    cropped = features[..., rows, columns]
    assert cropped.shape[-2:] == size, "Caffe requires this size"
    return cropped


def published_head(maps: list[Tensor], weights: dict[str, Tensor], size: tuple[int, int], *, scales: bool) -> Tensor:
    """Compute voc-fcn8s/net.py or voc-fcn8s-atonce/net.py of fcn.berkeleyvision.org from the score layers on."""
    pool3, pool4, fc7 = maps
    score_fr = F.conv2d(fc7, weights["score_fr"])
    upscore2 = F.conv_transpose2d(score_fr, weights["upscore2"], stride=2)
    scale_pool4 = pool4 * 0.01 if scales else pool4
    score_pool4 = F.conv2d(scale_pool4, weights["score_pool4"])
    fuse_pool4 = upscore2 + crop(score_pool4, 5, upscore2.shape[-2:])
    upscore_pool4 = F.conv_transpose2d(fuse_pool4, weights["upscore_pool4"], stride=2)
    scale_pool3 = pool3 * 0.0001 if scales else pool3
    score_pool3 = F.conv2d(scale_pool3, weights["score_pool3"])
    fuse_pool3 = upscore_pool4 + crop(score_pool3, 9, upscore_pool4.shape[-2:])
    upscore8 = F.conv_transpose2d(fuse_pool3, weights["upscore8"], stride=8)
    return crop(upscore8, 31, size)


@pytest.mark.parametrize("scales", [False, True], ids=["staged", "at once"])
@pytest.mark.parametrize("size", [(1, 1), (33, 47), (500, 333)])
def test_fcn8s_equals_published_head(size: tuple[int, int], *, scales: bool) -> None:
    torch.manual_seed(0)
    backbone = build_on_meta("vgg16")
    cells = map_sizes("vgg16", None, *size)
    maps = [torch.randn(1, channels, *sides) for channels, sides in zip((3, 4, 5), cells, strict=True)]
    config = option("model", "fcn8s", skip_scale=[0.01, 0.0001] if scales else [1.0, 1.0])
    model = FCN(Maps(maps, backbone.grids), config, num_classes=2)
    names = ("score_fr", "score_pool4", "score_pool3", "upscore2", "upscore_pool4", "upscore8")
    layers = [model.score_fr, *model.skip_scores, *model.skip_upscores, model.upscore]
    weights = {}
    for name, layer in zip(names, layers, strict=True):
        nn.init.normal_(layer.weight)
        weights[name] = layer.weight
    with torch.no_grad():
        expected = published_head(maps, weights, size, scales=scales)
        torch.testing.assert_close(model(torch.empty(1, 3, *size)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("head", list(CROPS), ids=str)
def test_replicated_borders_change_logits_at_borders_only(head: str) -> None:
    torch.manual_seed(0)
    backbone = build_on_meta("vgg16")
    cells = map_sizes("vgg16", None, 320, 352)
    maps = [torch.randn(1, channels, *sides) for channels, sides in zip((3, 4, 5), cells, strict=True)]
    models = [FCN(Maps(maps, backbone.grids), option("model", head, border=border), num_classes=2) for border in Border]
    for parameter in models[0].parameters():
        nn.init.normal_(parameter)
    models[1].load_state_dict(models[0].state_dict())
    with torch.no_grad():
        zero, replicate = (model(torch.empty(1, 3, 320, 352)) for model in models)
    inside = slice(96, -96)
    torch.testing.assert_close(replicate[..., inside, inside], zero[..., inside, inside], rtol=1e-4, atol=1e-4)
    assert not torch.allclose(replicate, zero)


# --- the backbone, with all 138 M weights of torchvision ---


@functools.cache
def classifier_and_backbone() -> tuple[nn.Module, Backbone]:
    """Build torchvision's VGG-16 with random weights, and a backbone with the same weights."""
    torch.manual_seed(0)
    network = tv.vgg16().eval()
    nn.init.uniform_(network.classifier[0].bias)
    # Built on the meta device, because drawing random weights takes a second.
    with torch.device("meta"):
        spec, empty = BACKBONES["vgg16"], tv.vgg16()
        spec.adapt(empty)
    backbone = Backbone(empty, spec).to_empty(device="cpu")
    unused = {"classifier.6.weight", "classifier.6.bias"}
    copy_weights(backbone.layers, network.state_dict(), key="weights", network="vgg16", unused=unused)
    return network, backbone


@pytest.mark.slow
def test_fc6_and_fc7_equal_torchvision_classifier() -> None:
    network, backbone = classifier_and_backbone()
    classifier = backbone.eval().layers.get_submodule("classifier")
    with torch.no_grad():
        pool5 = network.features(torch.randn(2, 3, 224, 224))
        assert pool5.shape == (2, 512, 7, 7)
        fc7 = classifier(pool5)
        expected = network.classifier[:6](network.avgpool(pool5).flatten(1))
    assert fc7.shape == (2, 4096, 1, 1)
    torch.testing.assert_close(fc7[..., 0, 0], expected, rtol=1e-4, atol=1e-5)


def published_backbone(network: nn.Module, images: Tensor) -> list[Tensor]:
    """Compute pool3, pool4 and fc7: a padding of 100, pools that round up, fc6 without padding."""
    features, pools = images, []
    for number, layer in enumerate(network.features):
        if isinstance(layer, nn.Conv2d):
            features = F.conv2d(features, layer.weight, layer.bias, padding=100 if number == 0 else 1).relu()
        elif isinstance(layer, nn.MaxPool2d):
            features = F.max_pool2d(features, 2, 2, ceil_mode=True)
            pools.append(features)
    fc6, fc7 = network.classifier[0], network.classifier[3]
    features = F.conv2d(features, fc6.weight.view(4096, 512, 7, 7), fc6.bias).relu()
    features = F.conv2d(features, fc7.weight.view(4096, 4096, 1, 1), fc7.bias).relu()
    return [pools[2], pools[3], features]


@pytest.mark.slow
def test_maps_equal_published_backbone() -> None:
    network, backbone = classifier_and_backbone()
    images = torch.randn(1, 3, 33, 20)
    with torch.no_grad():
        maps, expected = backbone.eval()(images), published_backbone(network, images)
    for features, reference in zip(maps, expected, strict=True):
        torch.testing.assert_close(features, reference, rtol=1e-4, atol=1e-5)


def test_classifier_keeps_dropout_of_one_half() -> None:
    layers = build_on_meta("vgg16").layers.get_submodule("classifier")
    dropouts = [layer for layer in layers.children() if isinstance(layer, nn.Dropout)]
    assert [layer.p for layer in dropouts] == [0.5, 0.5]
    assert [type(layer).__name__ for layer in layers.children()] == ["Conv2d", "ReLU", "Dropout"] * 2

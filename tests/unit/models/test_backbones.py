"""What a user relies on: aligned maps of any image from every trunk; torchvision weights or a clear error."""

import functools
import io
import urllib.error
from collections.abc import Callable
from email.message import Message
from pathlib import Path

import pytest
import torch
import torchvision.models as tv
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.feature_extraction import create_feature_extractor

from fcn.config import BackboneConfig, BackboneName
from fcn.models.backbones import TRUNKS, Backbone, WeightsError, build_backbone

SHARED = Path(__file__).resolve().parents[3] / ".." / "shared"
SQUEEZENET_WEIGHTS = SHARED / "weights" / "squeezenet1_0-imagenet.pth"

every_trunk = pytest.mark.parametrize("name", list(BackboneName), ids=lambda name: name.value)


def build(name: BackboneName = BackboneName.squeezenet1_0, weights: str = "none") -> Backbone:
    return build_backbone(BackboneConfig(name=name, weights=weights))


@functools.cache
def shapes_only(name: BackboneName) -> Backbone:
    """A trunk that computes shapes and no values, in no time whatever its size."""
    with torch.device("meta"):
        return build(name).eval()


@pytest.fixture
def write(tmp_path: Path) -> Callable[[object], str]:
    def write_weights(content: object) -> str:
        path = tmp_path / "weights.pth"
        torch.save(content, path)
        return str(path)

    return write_weights


# --- maps ---


@every_trunk
def test_every_trunk_gives_its_declared_maps(name: BackboneName) -> None:
    backbone = shapes_only(name)
    maps = backbone(torch.empty(2, 3, 320, 480, device="meta"))
    assert [tuple(features.shape) for features in maps] == [
        (2, channels, 320 // stride, 480 // stride)
        for channels, stride in zip(backbone.channels, backbone.strides, strict=True)
    ]


@pytest.mark.parametrize(
    ("name", "strides"), [(BackboneName.resnet50, (8, 16, 32)), (BackboneName.squeezenet1_0, (4, 8, 16))]
)
def test_the_three_coarsest_maps_come_fine_to_coarse(name: BackboneName, strides: tuple[int, ...]) -> None:
    assert shapes_only(name).strides == strides


@given(
    st.integers(1, 200),
    st.integers(1, 200),
    st.sampled_from([BackboneName.resnet18, BackboneName.squeezenet1_0]),
)
@settings(max_examples=30, deadline=None)
def test_maps_of_any_size_round_up(height: int, width: int, name: BackboneName) -> None:
    backbone = shapes_only(name)
    maps = backbone(torch.empty(1, 3, height, width, device="meta"))
    for features, stride in zip(maps, backbone.strides, strict=True):
        assert features.shape[-2:] == (-(-height // stride), -(-width // stride))


class Window(nn.Module):
    """Where a convolution or a pool looks, and no more: the mean over its window and over the channels."""

    def __init__(self, layer: nn.Conv2d | nn.MaxPool2d) -> None:
        super().__init__()
        self.geometry = layer.kernel_size, layer.stride, layer.padding, getattr(layer, "ceil_mode", False)

    def forward(self, features: Tensor) -> Tensor:
        return F.avg_pool2d(features.mean(dim=1, keepdim=True), *self.geometry)


def windows(name: BackboneName) -> Backbone:
    """The trunk's geometry alone. It is linear, so that the gradient of a cell is its receptive field."""
    with torch.device("meta"):
        backbone = build(name)
    for layer in list(backbone.modules()):
        for child_name, child in layer.named_children():
            if isinstance(child, nn.Conv2d | nn.MaxPool2d):
                layer.register_module(child_name, Window(child))
            elif isinstance(child, nn.BatchNorm2d):
                layer.register_module(child_name, nn.Identity())
    return backbone


def receptive_field(cell: Tensor, images: Tensor) -> Tensor:
    """How much each pixel of a long, one pixel thin image counts in `cell`."""
    (gradient,) = torch.autograd.grad(cell.sum(), images, retain_graph=True)
    return gradient.sum(dim=1).flatten()


@pytest.mark.parametrize("axis", [2, 3], ids=["rows", "columns"])
@every_trunk
def test_cell_i_is_centred_at_pixel_stride_times_i(name: BackboneName, axis: int) -> None:
    length = 2048  # the largest trunk sees 1500 pixels
    shape = [1, 3, 1, 1]
    shape[axis] = length
    images = torch.ones(shape, dtype=torch.float64, requires_grad=True)
    backbone = windows(name)
    for features, stride in zip(backbone(images), backbone.strides, strict=True):
        i = length // stride // 2 - 1
        field = receptive_field(features.select(axis, i), images)
        assert field[0] == 0 == field[-1], "the receptive field must lie inside the image"
        assert field[stride * i] > 0
        reach = stride * i
        assert (field[2 * reach + 1 :] == 0).all()
        torch.testing.assert_close(field[: 2 * reach + 1], field[: 2 * reach + 1].flip(0))


def test_resnet_maps_are_those_of_torchvision() -> None:
    network = tv.resnet18().eval()
    backbone = build(BackboneName.resnet18).eval()
    backbone.layers.load_state_dict(network.state_dict(), strict=False)
    images = torch.randn(1, 3, 65, 70)
    expected = create_feature_extractor(network, ["layer2", "layer3", "layer4"])(images).values()
    for features, reference in zip(backbone(images), expected, strict=True):
        assert torch.equal(features, reference)


def assert_same_inside(backbone: Backbone, network: nn.Module, images: Tensor) -> None:
    """On an image moved by 17 pixels torchvision's unpadded layers see what ours see, border effects apart.

    Behind a convolution (k7) and three pools (k3), all of stride 2 and without padding, what is our cell i is
    their cell i + 3, i + 1 and i at strides 4, 8 and 16.
    """
    nodes = ["features.5", "features.10", "features.12"]
    moved = F.pad(images, (17, 17 + 64, 17, 17 + 64))
    expected = create_feature_extractor(network, nodes)(moved).values()
    margin = 80  # the largest receptive field reaches 77 pixels to each side
    cells = zip(backbone(images), expected, backbone.strides, (3, 1, 0), strict=True)
    for ours, theirs, stride, shift in cells:
        inner = slice(margin // stride, (images.shape[-1] - margin) // stride)
        there = slice(inner.start + shift, inner.stop + shift)
        assert inner.stop - inner.start >= 2
        torch.testing.assert_close(ours[..., inner, inner], theirs[..., there, there], rtol=1e-4, atol=1e-4)


def test_squeezenet_sees_the_same_as_torchvisions_from_other_cells() -> None:
    network = tv.squeezenet1_0().eval()
    backbone = build().eval()
    backbone.layers.load_state_dict(network.state_dict(), strict=False)
    assert_same_inside(backbone, network, torch.randn(1, 3, 224, 224))


def test_the_forward_pass_compiles_without_a_break() -> None:
    backbone = build().eval()
    images = torch.randn(1, 3, 33, 47)
    compiled = torch.compile(backbone, backend="eager", fullgraph=True)
    for features, reference in zip(compiled(images), backbone(images), strict=True):
        assert torch.equal(features, reference)


# --- weights ---


@every_trunk
def test_parameters_keep_torchvisions_names(name: BackboneName) -> None:
    with torch.device("meta"):
        theirs = tv.get_model(name.value).state_dict()
    ours = shapes_only(name).state_dict()
    assert {key.removeprefix("layers.") for key in ours} == {
        key for key in theirs if key.split(".")[0] not in ("fc", "classifier")
    }


def test_random_weights_follow_torchs_seed() -> None:
    torch.manual_seed(3)
    backbone = build()
    torch.manual_seed(3)
    network = tv.squeezenet1_0()
    assert torch.equal(backbone.layers.get_parameter("features.0.weight"), network.features[0].weight)


@pytest.mark.parametrize("with_classifier", [True, False])
@pytest.mark.parametrize("with_counts", [True, False])
def test_a_state_dict_is_loaded_whole(
    write: Callable[[object], str], *, with_classifier: bool, with_counts: bool
) -> None:
    network = tv.resnet18()
    network.bn1.running_mean.fill_(7)
    state = network.state_dict()
    # torchvision's own V1 files have no num_batches_tracked.
    dropped = [key for key in state if key.endswith("num_batches_tracked") and not with_counts]
    dropped += [key for key in state if key.startswith("fc.") and not with_classifier]
    weights = write({key: value for key, value in state.items() if key not in dropped})
    loaded = build(BackboneName.resnet18, weights).layers.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in state.items() if not key.startswith("fc."))


def test_a_classifier_for_other_classes_is_no_obstacle(write: Callable[[object], str]) -> None:
    network = tv.squeezenet1_0(num_classes=5)
    loaded = build(weights=write(network.state_dict()))
    assert torch.equal(loaded.layers.get_parameter("features.0.weight"), network.features[0].weight)


def without(state: dict[str, Tensor], *keys: str) -> dict[str, Tensor]:
    return {key: value for key, value in state.items() if key not in keys}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda state: without(state, "features.0.bias"), "lacks features.0.bias; use"),
        (
            lambda state: without(state, "features.0.weight", "features.0.bias"),
            "lacks features.0.weight and 1 more",
        ),
        (lambda state: state | {"head.weight": torch.ones(1)}, "has the unknown head.weight; use"),
        (
            lambda state: state | {"features.0.bias": torch.ones(4)},
            "has another shape for features.0.bias; use",
        ),
    ],
)
def test_weights_of_another_network_are_refused(
    write: Callable[[object], str], change: Callable[[dict[str, Tensor]], dict[str, Tensor]], problem: str
) -> None:
    weights = write(change(tv.squeezenet1_0().state_dict()))
    with pytest.raises(WeightsError, match=f"must fit torchvision's squeezenet1_0, but it {problem}"):
        build(weights=weights)


@pytest.mark.parametrize(
    "content",
    [
        {"epoch": 3, "state_dict": {}},
        [torch.ones(1)],
        {0: torch.ones(1)},
        Path("code, which an unsafe pickle could run"),
    ],
)
def test_a_file_that_is_no_state_dict_is_refused(write: Callable[[object], str], content: object) -> None:
    with pytest.raises(WeightsError, match=r"must be a state dict .*; write it with torch.save"):
        build(weights=write(content))


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 a broken archive"])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    with pytest.raises(WeightsError, match="must be a state dict"):
        build(weights=str(path))


def test_a_missing_file_is_named_with_the_nearest_word(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"absent.pth\) must be none, imagenet or the path .* no such file$"):
        build(weights=str(tmp_path / "absent.pth"))
    with pytest.raises(WeightsError, match="no such file; did you mean imagenet"):
        build(weights="imagnet")


# --- imagenet ---


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder into which torch downloads, empty, with no network behind it."""

    def offline(*args: object, **kwargs: object) -> None:
        raise urllib.error.URLError("no network in this test")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", offline)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


class Response(io.BytesIO):
    """A reply without headers."""

    def info(self) -> Message:
        return Message()


SQUEEZENET_FILE = "squeezenet1_0-b66bff10.pth"


def test_imagenet_takes_the_file_in_torch_hubs_folder(hub: Path) -> None:
    network = tv.squeezenet1_0()
    torch.save(network.state_dict(), hub / SQUEEZENET_FILE)
    loaded = build(weights="imagenet")
    assert torch.equal(loaded.layers.get_parameter("features.0.weight"), network.features[0].weight)


@every_trunk
def test_imagenet_is_torchvisions_first_version(name: BackboneName) -> None:
    first = tv.get_model_weights(TRUNKS[name].builder).IMAGENET1K_V1
    assert Path(first.url).name.startswith(f"{name.value}-")


def test_imagenet_without_network_says_where_to_put_the_file(hub: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        build(weights="imagenet")
    message = str(caught.value)
    assert str(hub / SQUEEZENET_FILE) in message
    assert f"https://download.pytorch.org/models/{SQUEEZENET_FILE}" in message
    assert "no network in this test" in message
    assert "backbone.weights=none or the path of a state dict" in message


def test_imagenet_with_a_wrong_hash_is_refused(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.hub.urlopen", lambda request: Response(b"not the weights"))
    with pytest.raises(WeightsError, match=r"which failed \(invalid hash value"):
        build(weights="imagenet")
    assert list(hub.iterdir()) == []


def test_imagenet_with_a_damaged_file_says_to_delete_it(hub: Path) -> None:
    (hub / SQUEEZENET_FILE).write_bytes(b"half a download")
    with pytest.raises(
        WeightsError, match=rf"cannot read .*{SQUEEZENET_FILE}; delete it, or use backbone.weights=none"
    ):
        build(weights="imagenet")


@pytest.mark.realdata
@pytest.mark.skipif(not SQUEEZENET_WEIGHTS.exists(), reason="needs the genuine SqueezeNet weights")
def test_genuine_weights_see_the_same_as_in_torchvisions_network() -> None:
    network = tv.squeezenet1_0().eval()
    network.load_state_dict(torch.load(SQUEEZENET_WEIGHTS, weights_only=True))
    backbone = build(weights=str(SQUEEZENET_WEIGHTS)).eval()
    torch.manual_seed(0)
    assert_same_inside(backbone, network, torch.randn(1, 3, 224, 224))

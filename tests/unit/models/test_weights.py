"""What a user relies on: weights under torchvision's names, all of them, or an error that says why not."""

import io
import urllib.error
from collections.abc import Callable
from email.message import Message
from pathlib import Path

import pytest
import torch
import torchvision.models as tv
from torch import Tensor, nn

from fcn.config import BackboneConfig, ModelConfig
from fcn.config.choices import BackboneName, ModelName, PublishedWeights
from fcn.models.backbones import BACKBONES, load_backbone_weights
from fcn.models.torchvision_models import BUILDERS, TorchvisionNetwork
from fcn.models.weights import WeightsError, copy_weights
from tests.unit.models.backbone_cases import build, every_backbone, shapes_only


@pytest.fixture
def write(tmp_path: Path) -> Callable[[object], str]:
    def write_weights(content: object) -> str:
        path = tmp_path / "weights.pth"
        torch.save(content, path)
        return str(path)

    return write_weights


@every_backbone
def test_parameters_keep_torchvisions_names(name: BackboneName) -> None:
    with torch.device("meta"):
        theirs = tv.get_model(name.value).state_dict()
    ours = shapes_only(name).state_dict()
    # VGG's fc6 and fc7 belong to the backbone; its fc8 is classifier.6.
    left_out = ("classifier.6.",) if name.value.startswith("vgg") else ("fc.", "classifier.")
    assert {key.removeprefix("layers.") for key in ours} == {key for key in theirs if not key.startswith(left_out)}


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


@every_backbone
def test_imagenet_is_torchvisions_first_version(name: BackboneName) -> None:
    first = tv.get_model_weights(BACKBONES[name].builder).IMAGENET1K_V1
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


# --- fully connected layers as convolutions ---


def test_a_fully_connected_layers_weight_becomes_a_convolutions() -> None:
    linear, convolution = nn.Linear(5 * 3 * 3, 4), nn.Conv2d(5, 4, 3)
    copy_weights(convolution, linear.state_dict(), key="weights", network="net", unused=())
    features = torch.randn(2, 5, 3, 3)
    torch.testing.assert_close(convolution(features)[..., 0, 0], linear(features.flatten(1)))


@pytest.mark.parametrize("shape", [(5, 36), (4, 44), (36, 5), (2, 90)])
def test_a_fully_connected_layer_of_another_shape_is_refused(shape: tuple[int, int]) -> None:
    state = {"weight": torch.zeros(shape), "bias": torch.zeros(4)}
    with pytest.raises(WeightsError, match="has another shape for weight"):
        copy_weights(nn.Conv2d(5, 4, 3), state, key="weights", network="net", unused=())


@pytest.mark.parametrize("name", [BackboneName.vgg16, BackboneName.vgg16_bn], ids=str)
def test_torchvisions_vgg_fits_by_names_and_shapes(name: BackboneName) -> None:
    """Names and shapes alone; the numbers are in test_papers.py, marked slow."""
    with torch.device("meta"):
        state = tv.get_model(name.value).state_dict()
        layers = build(name).layers
    copy_weights(layers, state, key="weights", network=name.value, unused={"classifier.6.weight", "classifier.6.bias"})
    with pytest.raises(WeightsError, match=r"has the unknown classifier.6.weight and 1 more"):
        copy_weights(layers, state, key="weights", network=name.value, unused=())


# --- torchvision's segmentation networks ---


@pytest.mark.parametrize("name", [ModelName.lraspp_mobilenet_v3_large, ModelName.fcn_resnet50], ids=str)
def test_a_baselines_backbone_takes_the_weights_of_torchvisions_classifier(
    write: Callable[[object], str], name: ModelName
) -> None:
    backbone = name.backbone
    assert backbone is not None
    state = tv.get_model(backbone.value).state_dict()
    weights = write({key: torch.full_like(value, 0.5) for key, value in state.items()})
    model = TorchvisionNetwork(ModelConfig(name=name), BackboneConfig(name=backbone, weights=weights), num_classes=3)
    loaded = {key: value for key, value in model.state_dict().items() if key.startswith("network.backbone.")}
    assert len(loaded) > 200
    half = [key for key, value in loaded.items() if value.is_floating_point() and not (value == 0.5).all()]
    assert half == []
    with pytest.raises(WeightsError, match=rf"must fit torchvision's {backbone}, but it has the unknown head.weight"):
        load_backbone_weights(
            nn.Identity(), BackboneConfig(name=backbone, weights=write({"head.weight": torch.ones(1)}))
        )


def published(name: ModelName) -> dict[str, Tensor]:
    """A state dict such as torchvision publishes: 21 classes, and for all but LR-ASPP with the auxiliary head."""
    options = {} if name is ModelName.lraspp_mobilenet_v3_large else {"aux_loss": True}
    return BUILDERS[name](num_classes=21, weights=None, weights_backbone=None, **options).state_dict()


@pytest.mark.parametrize("name", [ModelName.lraspp_mobilenet_v3_large, ModelName.fcn_resnet50], ids=str)
def test_published_weights_are_read_from_torch_hubs_folder(hub: Path, name: ModelName) -> None:
    state = published(name)
    source = tv.get_model_weights(BUILDERS[name]).COCO_WITH_VOC_LABELS_V1
    torch.save(state, hub / Path(source.url).name)
    model = TorchvisionNetwork(
        ModelConfig(name=name, weights=PublishedWeights.voc), BackboneConfig(name=name.backbone), num_classes=21
    )
    loaded = model.network.state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in loaded)
    assert set(state) - set(loaded) == {key for key in state if key.startswith("aux_classifier.")}


def test_published_weights_that_cannot_be_had_say_what_else_to_use(hub: Path) -> None:
    config = ModelConfig(name=ModelName.lraspp_mobilenet_v3_large, weights=PublishedWeights.voc)
    with pytest.raises(WeightsError, match=r"model.weights \(=voc\) must find .*, or use model.weights=none"):
        TorchvisionNetwork(config, BackboneConfig(name=BackboneName.mobilenet_v3_large), num_classes=21)


def test_published_weights_of_another_network_are_refused(hub: Path) -> None:
    name = ModelName.lraspp_mobilenet_v3_large
    state = published(name)
    state.pop("classifier.low_classifier.bias")
    torch.save(state, hub / Path(tv.get_model_weights(BUILDERS[name]).COCO_WITH_VOC_LABELS_V1.url).name)
    config = ModelConfig(name=name, weights=PublishedWeights.voc)
    with pytest.raises(WeightsError, match=rf"must fit torchvision's {name}, but it lacks classifier.low_classifier"):
        TorchvisionNetwork(config, BackboneConfig(name=name.backbone), num_classes=21)

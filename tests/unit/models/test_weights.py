"""Weights are loaded completely under torchvision's names, or rejected with a message that states the reason."""

import io
import logging
import re
import urllib.error
from collections.abc import Callable
from email.message import Message
from pathlib import Path

import pytest
import torch
import torchvision.models as tv
from safetensors.torch import save_file
from torch import Tensor, nn

from fcn.config import option
from fcn.config.choices import PublishedWeights, TorchvisionModel
from fcn.models.model_options import TorchvisionModelConfig
from fcn.models.torchvision_models import TorchvisionNetwork
from fcn.models.weights import WeightsError, copy_fitting, copy_weights
from tests.unit.models.backbone_cases import build, build_model, build_on_meta, every_backbone, every_head

LRASPP = TorchvisionModel.lraspp_mobilenet_v3_large
baselines = pytest.mark.parametrize("name", [LRASPP, TorchvisionModel.fcn_resnet50], ids=str)
Write = Callable[[object], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write_weights(content: object) -> str:
        torch.save(content, tmp_path / "weights.pth")
        return str(tmp_path / "weights.pth")

    return write_weights


# --- files ---


@every_backbone
def test_parameters_keep_torchvision_names(name: str) -> None:
    with torch.device("meta"):
        reference = tv.get_model(name).state_dict()
    # VGG's fc6 and fc7 belong to the backbone; its fc8 is classifier.6.
    classifier = ("classifier.6.",) if name.startswith("vgg") else ("fc.", "classifier.")
    expected = {key for key in reference if not key.startswith(classifier)}
    assert {key.removeprefix("layers.") for key in build_on_meta(name).state_dict()} == expected


@pytest.mark.parametrize("omitted", ["nothing", "num_batches_tracked", "fc."])  # V1 files of torchvision lack counts
def test_state_dict_is_loaded_completely(write: Write, omitted: str) -> None:
    state = tv.resnet18().state_dict()
    state["bn1.running_mean"].fill_(7)
    weights = write({key: value for key, value in state.items() if omitted not in key})
    loaded = build("resnet18", weights).layers.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in state.items() if not key.startswith("fc."))


def test_classifier_with_other_classes_is_ignored(write: Write) -> None:
    network = tv.squeezenet1_0(num_classes=5)
    loaded = build(weights=write(network.state_dict()))
    assert torch.equal(loaded.layers.get_parameter("features.0.weight"), network.features[0].weight)


@pytest.mark.parametrize(
    ("removed", "added", "problem"),
    [
        (["features.0.bias"], {}, "lacks features.0.bias; use"),
        (["features.0.weight", "features.0.bias"], {}, "lacks features.0.weight and 1 more"),
        ([], {"head.weight": torch.ones(1)}, "has the unknown head.weight; use"),
        ([], {"features.0.bias": torch.ones(4)}, "has another shape for features.0.bias; use"),
    ],
)
def test_weights_of_another_network_are_rejected(
    write: Write, removed: list[str], added: dict[str, Tensor], problem: str
) -> None:
    state = {key: value for key, value in tv.squeezenet1_0().state_dict().items() if key not in removed}
    with pytest.raises(WeightsError, match=f"must fit torchvision's squeezenet1_0, but it {problem}"):
        build(weights=write(state | added))


@pytest.mark.parametrize("prefix", ["", "module.", "module._orig_mod.", "model.", "_orig_mod."])
@pytest.mark.parametrize("entry", [None, "state_dict", "model", "model_state_dict"])
def test_weights_are_unwrapped_and_the_log_says_so(
    write: Write, caplog: pytest.LogCaptureFixture, entry: str | None, prefix: str
) -> None:
    state = tv.squeezenet1_0().state_dict()
    prefixed = {f"{prefix}{name}": value for name, value in state.items()}
    with caplog.at_level(logging.INFO):
        loaded = build(weights=write({"epoch": 3, entry: prefixed} if entry else prefixed)).layers.state_dict()
    assert loaded
    assert all(torch.equal(value, state[name]) for name, value in loaded.items())
    path = re.escape(str(write(prefixed)))
    assert bool(re.search(f"from the entry {entry} of {path}", caplog.text)) == (entry is not None)
    assert bool(re.search(rf"of {path} without {re.escape(prefix)} at the beginning", caplog.text)) == bool(prefix)


def test_safetensors_are_unwrapped(tmp_path: Path) -> None:
    state = tv.squeezenet1_0().state_dict()
    save_file({f"module.{name}": value for name, value in state.items()}, tmp_path / "x.safetensors")
    loaded = build(weights=str(tmp_path / "x.safetensors")).layers.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in loaded.items())


def test_prefix_of_some_names_only_is_kept(write: Write) -> None:
    state = dict(tv.squeezenet1_0().state_dict())
    state["module.features.0.bias"] = state.pop("features.0.bias")
    with pytest.raises(WeightsError, match=r"lacks features\.0\.bias"):
        build(weights=write(state))


@pytest.mark.parametrize(
    "content", [{}, {"epoch": 3, "state_dict": {}}, [torch.ones(1)], Path("arbitrary pickled code")]
)
def test_file_without_state_dict_is_rejected(write: Write, content: object) -> None:
    with pytest.raises(WeightsError, match=r"must be a state dict .*; write it with torch.save"):
        build(weights=write(content))


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 a broken archive"])
def test_damaged_file_is_rejected(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(WeightsError, match="must be a state dict"):
        build(weights=str(tmp_path / "weights.pth"))


@pytest.mark.parametrize(("weights", "end"), [("absent.pth", "no such file$"), ("imagnet", "did you mean imagenet")])
def test_missing_file_is_rejected(weights: str, end: str) -> None:
    with pytest.raises(WeightsError, match=rf"\(={weights}\) must be none, imagenet or the path .*{end}"):
        build(weights=weights)


# --- downloads ---

SQUEEZENET_FILE = "squeezenet1_0-b66bff10.pth"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty download folder of torch hub, without network access."""

    def offline(*args: object, **kwargs: object) -> None:
        raise urllib.error.URLError("no network in this test")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", offline)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


class Response(io.BytesIO):
    """HTTP response without headers."""

    def info(self) -> Message:
        return Message()


@every_backbone
def test_imagenet_weights_are_version_1(name: str, monkeypatch: pytest.MonkeyPatch, hub: Path) -> None:
    with pytest.raises(WeightsError, match=rf"https://download.pytorch.org/models/{name}-"), torch.device("meta"):
        build(name, weights="imagenet")


def test_imagenet_weights_are_read_from_hub_folder(hub: Path) -> None:
    network = tv.squeezenet1_0()
    torch.save(network.state_dict(), hub / SQUEEZENET_FILE)
    loaded = build(weights="imagenet")
    assert torch.equal(loaded.layers.get_parameter("features.0.weight"), network.features[0].weight)


def test_failed_download_names_file_url_and_alternative(hub: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        build(weights="imagenet")
    url = f"https://download.pytorch.org/models/{SQUEEZENET_FILE}"
    for part in (str(hub / SQUEEZENET_FILE), url, "no network in this test", "backbone.weights=none or the path"):
        assert part in str(caught.value)


def test_download_with_wrong_hash_is_rejected(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.hub.urlopen", lambda request: Response(b"not the weights"))
    with pytest.raises(WeightsError, match=r"could not be downloaded .* \(invalid hash value"):
        build(weights="imagenet")
    assert list(hub.iterdir()) == []


def test_damaged_download_is_to_be_deleted(hub: Path) -> None:
    (hub / SQUEEZENET_FILE).write_bytes(b"half a download")
    with pytest.raises(WeightsError, match=rf"cannot read .*{SQUEEZENET_FILE}; delete it, or use backbone.weights="):
        build(weights="imagenet")


# --- fully connected layers as convolutions ---


def test_fully_connected_weight_becomes_convolution() -> None:
    linear, convolution = nn.Linear(5 * 3 * 3, 4), nn.Conv2d(5, 4, 3)
    copy_weights(convolution, linear.state_dict(), key="weights", network="net", unused=())
    features = torch.randn(2, 5, 3, 3)
    torch.testing.assert_close(convolution(features)[..., 0, 0], linear(features.flatten(1)))


@pytest.mark.parametrize("shape", [(5, 36), (4, 44), (36, 5), (2, 90)])
def test_fully_connected_weight_of_another_shape_is_rejected(shape: tuple[int, int]) -> None:
    state = {"weight": torch.zeros(shape), "bias": torch.zeros(4)}
    with pytest.raises(WeightsError, match="has another shape for weight"):
        copy_weights(nn.Conv2d(5, 4, 3), state, key="weights", network="net", unused=())


@pytest.mark.parametrize("name", ["vgg16", "vgg16_bn"], ids=str)
def test_vgg_weights_fit_by_name_and_shape(name: str) -> None:
    with torch.device("meta"):
        state, layers = tv.get_model(name).state_dict(), build(name).layers
    copy_weights(layers, state, key="weights", network=name, unused={"classifier.6.weight", "classifier.6.bias"})
    with pytest.raises(WeightsError, match=r"has the unknown classifier.6.weight and 1 more"):
        copy_weights(layers, state, key="weights", network=name, unused=())


# --- torchvision's segmentation networks ---


@baselines
def test_baseline_backbone_loads_classifier_weights(write: Write, name: TorchvisionModel) -> None:
    state = tv.get_model(name.backbone).state_dict()
    weights = write({key: torch.full_like(value, 0.5) for key, value in state.items()})
    backbone = option("backbone", name.backbone, weights=weights)
    model = TorchvisionNetwork(TorchvisionModelConfig(name=name), backbone, num_classes=3)
    loaded = {key: value for key, value in model.state_dict().items() if key.startswith("network.backbone.")}
    assert len(loaded) > 200
    assert all((value == 0.5).all() for value in loaded.values() if value.is_floating_point())


def save_published_weights(name: TorchvisionModel, hub: Path, *, omitted: str = "nothing") -> dict[str, Tensor]:
    """Save a state dict as published by torchvision: 21 classes, and an auxiliary head except for LR-ASPP."""
    options = {} if name is LRASPP else {"aux_loss": True}
    network = tv.get_model(name.value, num_classes=21, weights=None, weights_backbone=None, **options)
    state = {key: value for key, value in network.state_dict().items() if key != omitted}
    torch.save(state, hub / Path(tv.get_model_weights(name.value).COCO_WITH_VOC_LABELS_V1.url).name)
    return state


def build_published(name: TorchvisionModel, **keys: object) -> TorchvisionNetwork:
    config = TorchvisionModelConfig(name=name, weights=PublishedWeights.voc, **keys)
    return TorchvisionNetwork(config, option("backbone", name.backbone), num_classes=21)


@baselines
def test_published_weights_are_loaded_without_auxiliary_head(hub: Path, name: str) -> None:
    state = save_published_weights(name, hub)
    loaded = build_published(name).network.state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in loaded)
    assert set(state) - set(loaded) == {key for key in state if key.startswith("aux_classifier.")}


def test_published_weights_include_auxiliary_head(hub: Path) -> None:
    name = TorchvisionModel.fcn_resnet50
    state = save_published_weights(name, hub)
    loaded = build_published(name, auxiliary_weight=0.5).network.state_dict()
    assert set(loaded) == set(state)
    assert all(torch.equal(loaded[key], state[key]) for key in loaded)


def test_failed_download_of_published_weights_names_alternative(hub: Path) -> None:
    with pytest.raises(WeightsError, match=r"model.weights \(=voc\) needs .*, or use model.weights=none"):
        build_published(LRASPP)


def test_published_weights_of_another_network_are_rejected(hub: Path) -> None:
    save_published_weights(LRASPP, hub, omitted="classifier.low_classifier.bias")
    with pytest.raises(WeightsError, match=rf"must fit torchvision's {LRASPP}, but it lacks classifier.low_classifier"):
        build_published(LRASPP)


# --- weights of another run ---


def random_network(head: str, *, backbone: str = "squeezenet1_0", num_classes: int = 3) -> nn.Module:
    """Build a network in which every parameter is random, which makes copies detectable."""
    model = build_model(option("model", head), option("backbone", backbone), num_classes=num_classes)
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    return model


@pytest.mark.parametrize(
    ("coarse", "fine", "number", "copied_layers"),
    [
        ("fcn32s", "fcn16s", 0, {"score_fr", "upscore.bias"}),
        ("fcn16s", "fcn8s", 1, {"score_fr", "skip_scores.0", "skip_upscores.0", "upscore.bias"}),
    ],
    ids=["32s to 16s", "16s to 8s"],
)
def test_finer_fcn_copies_all_but_new_skip_and_last_kernel(
    coarse: str, fine: str, number: int, copied_layers: set[str]
) -> None:
    torch.manual_seed(0)
    source, network = random_network(coarse).state_dict(), random_network(fine)
    initial = {key: value.clone() for key, value in network.state_dict().items()}
    copied, kept, unused = copy_fitting(network, source)
    state = network.state_dict()
    assert {key for key in state if key.startswith("backbone.")} < set(copied)
    heads = {key for key in copied if not key.startswith("backbone.")}
    assert {key if key == "upscore.bias" else key.rpartition(".")[0] for key in heads} == copied_layers
    new = {f"skip_{layer}.{number}.{name}" for layer in ("scores", "upscores") for name in ("weight", "bias")}
    assert set(kept) == {*new, "upscore.weight"}
    assert unused == ["upscore.weight"]
    assert all(torch.equal(state[key], source[key]) for key in copied)
    assert all(torch.equal(state[key], initial[key]) for key in kept)


@every_head
def test_same_network_is_copied_completely(head: str) -> None:
    source, network = random_network(head).state_dict(), random_network(head)
    assert copy_fitting(network, source) == (list(source), [], [])
    assert all(torch.equal(value, network.state_dict()[key]) for key, value in source.items())


def test_other_classes_copy_backbone_only() -> None:
    source = random_network("fcn32s", num_classes=4).state_dict()
    copied, kept, unused = copy_fitting(random_network("fcn32s"), source)
    assert all(key.startswith("backbone.") for key in copied)
    assert kept == unused == ["score_fr.weight", "score_fr.bias", "upscore.weight", "upscore.bias"]


def test_head_is_not_copied_without_backbone() -> None:
    """The score layers of ResNet-18 and SqueezeNet have the same shape but different features as input."""
    network = random_network("fcn32s")
    initial = {key: value.clone() for key, value in network.state_dict().items()}
    source = random_network("fcn32s", backbone="resnet18").state_dict()
    assert copy_fitting(network, source) == ([], list(initial), list(source))
    assert all(torch.equal(value, initial[key]) for key, value in network.state_dict().items())


@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")
def test_baselines_share_backbone_weights() -> None:
    backbone = option("backbone", "resnet50")
    with torch.device("meta"):
        source, network = (
            build_model(TorchvisionModelConfig(name=name), backbone, num_classes=3)
            for name in (TorchvisionModel.fcn_resnet50, TorchvisionModel.deeplabv3_resnet50)
        )
    copied, kept, _ = copy_fitting(network, source.state_dict())
    assert {key for key in network.state_dict() if key.startswith("network.backbone.")} <= set(copied)
    assert all(key.startswith("network.classifier.") for key in kept)

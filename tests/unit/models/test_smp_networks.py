"""Networks of segmentation_models_pytorch are built unchanged, accept any image size, and can be trained."""

import functools
import importlib.util
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import fcn
from fcn.config import ConfigError, option
from fcn.config.choices import SmpModel
from tests.unit.models.backbone_cases import build_model

smp = pytest.importorskip("segmentation_models_pytorch")

from fcn.models import smp_weights, timm_weights  # noqa: E402
from fcn.models.network import SegmentationNetwork  # noqa: E402
from fcn.models.smp_architectures import fit_encoder, smallest_batch  # noqa: E402
from fcn.models.smp_networks import SmpNetwork  # noqa: E402
from fcn.models.weights import WeightsError  # noqa: E402

VIT = "tu-vit_tiny_patch16_224"
WITHOUT_MIT = (SmpModel.unetplusplus, SmpModel.linknet)
NETWORKS = [(name, VIT if name is SmpModel.dpt else "resnet18") for name in SmpModel]
TRANSFORMERS = [(name, "mit_b0") for name in SmpModel if name not in (SmpModel.dpt, *WITHOUT_MIT)]
OTHERS = [(SmpModel.unet, "tu-swin_tiny_patch4_window7_224"), (SmpModel.fpn, "mobilenet_v2")]


def build(name: SmpModel = SmpModel.unet, encoder: str = "resnet18", weights: str = "none", classes: int = 5):
    model, backbone = option("model", "smp", name=name), option("backbone", "smp", name=encoder, weights=weights)
    network = build_model(model, backbone, num_classes=classes)
    assert isinstance(network, SmpNetwork)
    return network


@functools.cache
def build_once(name: SmpModel, encoder: str) -> SmpNetwork:
    torch.manual_seed(0)
    return build(name, encoder).eval()


every_network = pytest.mark.parametrize(("name", "encoder"), NETWORKS, ids=str)


@every_network
def test_logits_equal_smp(name: SmpModel, encoder: str) -> None:
    ours = build_once(name, encoder)
    options = {"dynamic_img_size": True} if name is SmpModel.dpt else {}
    theirs = smp.create_model(name.value, encoder, encoder_weights=None, classes=5, **options).eval()
    theirs.load_state_dict(ours.network.state_dict())
    images = torch.randn(1, 3, 128, 160)
    with torch.no_grad():
        assert torch.equal(ours(images), theirs(images))


@pytest.mark.parametrize(("name", "encoder"), [*NETWORKS, *TRANSFORMERS, *OTHERS], ids=str)
def test_logits_have_image_size(name: SmpModel, encoder: str) -> None:
    network = build_once(name, encoder)
    for size in ((1, 1), (33, 47)):
        with torch.no_grad():
            logits = network(torch.randn(2, 3, *size))
        assert logits.shape == (2, 5, *size)
        assert logits.isfinite().all()


@every_network
def test_trained_parameters_have_finite_gradients(name: SmpModel, encoder: str) -> None:
    network = build(name, encoder).train()
    network(torch.randn(2, 3, 64, 96)).square().mean().backward()
    for parameter_name, parameter in network.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, parameter_name
            assert parameter.grad.isfinite().all(), parameter_name
        else:
            assert parameter.grad is None, parameter_name


@every_network
def test_head_and_encoder_partition_parameters(name: SmpModel, encoder: str) -> None:
    network = build_once(name, encoder)
    head = {id(parameter) for parameter in network.head_parameters()}
    inside = {id(parameter) for parameter in network.network.encoder.parameters()}
    assert head
    assert not head & inside
    assert head | inside == {id(parameter) for parameter in network.parameters()}


@every_network
def test_smallest_part_is_that_of_batch_norm(name: SmpModel, encoder: str) -> None:
    smallest = option("model", "smp", name=name).smallest_part
    network, image = build(name, encoder).train(), torch.randn(1, 3, 64, 96)
    if smallest == 1:
        network(image)
    else:
        with pytest.raises(ValueError, match="Expected more than 1 value"):
            network(image)


def test_encoders_with_pooled_batch_norm_need_two_images() -> None:
    encoders = {"resnet18": 1, "timm-skresnet18": 2, "mit_b0": 1, VIT: 1}
    assert {name: smallest_batch(name) for name in encoders} == encoders


def test_measurements_leave_the_generator_untouched() -> None:
    fit_encoder.cache_clear()
    torch.manual_seed(0)
    state = torch.get_rng_state()
    for encoder in ("resnet18", "mit_b0"):
        fit_encoder("fpn", encoder)
    assert torch.equal(torch.get_rng_state(), state)


def test_unused_stages_of_pspnet_are_frozen() -> None:
    network = build_once(SmpModel.pspnet, "resnet18")
    frozen = {name.split(".")[2] for name, parameter in network.named_parameters() if not parameter.requires_grad}
    assert frozen == {"layer3", "layer4"}


# --- configuration ---


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("backbone.name=resnet1",), r"backbone.name \(=resnet1\) must be an encoder .*; did you mean resnet18\?"),
        (("backbone.name=convnext_tiny",), r"did you mean tu-convnext_tiny\?"),
        (("backbone.name=tu-resnet18.a9",), r"must end in a tag of timm's weights for resnet18: a1_in1k"),
        (("model.name=unett",), r"model.name \(=unett\) must be one of unet, .*; did you mean unet\?"),
        (("model.name=dpt",), r"backbone.name \(=resnet34\) must fit model.name \(=dpt\)"),
        (("model.name=linknet", "backbone.name=mit_b0"), r"must fit .*; use another encoder"),
        (("backbone=resnet18",), r"backbone \(=resnet18\) must be smp for model=smp; use backbone=smp"),
        (("backbone.output_stride=8",), r"backbone.output_stride has no effect with the chosen option of backbone"),
        (("model.alignment=centered",), r"model.alignment has no effect with the chosen option of model"),
        (("model.name=pan", "batch_size=1"), r"batch_size \(=1\) must be at least 2 .* for pan"),
        (("backbone.name=timm-skresnet18", "batch_size=1"), r"batch_size \(=1\) must be at least 2 .* timm-skresnet18"),
        (("model=fcn32s", "backbone=smp"), r"backbone \(=smp\) must be the backbone of model=smp"),
    ],
)
def test_keys_that_do_not_fit_are_refused(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fcn.compose("model=smp", *overrides)


def test_model_chooses_its_backbone() -> None:
    config = fcn.compose("model=smp", "backbone.name=resnet18")
    assert (type(config.backbone).__name__, config.backbone.name) == ("SmpBackbone", "resnet18")
    assert fcn.config.validate_run(fcn.config.to_container(config)) == config


def test_missing_package_gives_the_extra_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'model \(=smp\) needs .*; use pip install -e "\.\[smp\]"'):
        fcn.compose("model=smp")


# --- weights ---


def encoder_state(encoder: str) -> dict[str, torch.Tensor]:
    state = smp.encoders.get_encoder(encoder, weights=None).state_dict()
    return {name: torch.randn_like(value) if value.is_floating_point() else value for name, value in state.items()}


@pytest.mark.parametrize("encoder", ["resnet18", "mit_b0", "densenet121"])
def test_state_dict_of_encoder_is_loaded_completely(tmp_path: Path, encoder: str) -> None:
    state = encoder_state(encoder)
    torch.save({**state, "classifier.weight": torch.ones(2)}, tmp_path / "encoder.pth")
    loaded = build(encoder=encoder, weights=str(tmp_path / "encoder.pth")).network.encoder.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())


def test_wrapped_state_dict_of_encoder_is_loaded_completely(tmp_path: Path) -> None:
    state = encoder_state("resnet18")
    torch.save({"state_dict": {f"module.{name}": value for name, value in state.items()}}, tmp_path / "encoder.pth")
    loaded = build(weights=str(tmp_path / "encoder.pth")).network.encoder.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())


def test_checkpoint_is_loaded_without_the_file_of_weights(tmp_path: Path) -> None:
    torch.save(encoder_state("resnet18"), tmp_path / "encoder.pth")
    network = SegmentationNetwork(
        fcn.compose("model=smp", "backbone.name=resnet18", f"backbone.weights={tmp_path}/encoder.pth")
    )
    checkpoint = {"config": fcn.config.to_container(network.config), "state_dict": network.state_dict()}
    torch.save(checkpoint, tmp_path / "run.ckpt")
    (tmp_path / "encoder.pth").unlink()
    loaded = fcn.load(tmp_path / "run.ckpt").network.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in network.state_dict().items())


@pytest.mark.parametrize(
    ("architecture", "name"), [("convnext_atto", SmpModel.unet), ("resnet18", SmpModel.pspnet), (VIT[3:], SmpModel.dpt)]
)
def test_state_dict_of_timm_is_loaded_completely(tmp_path: Path, architecture: str, name: SmpModel) -> None:
    torch.manual_seed(1)
    timm = pytest.importorskip("timm")
    state = timm.create_model(architecture).state_dict()
    save_file(state, tmp_path / "timm.safetensors")
    loaded = build(name, f"tu-{architecture}", str(tmp_path / "timm.safetensors")).network.encoder.model.state_dict()
    state = {key.replace(".", "_"): value for key, value in state.items()}
    assert all(torch.equal(state[key.replace(".", "_")], value) for key, value in loaded.items())


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"conv1.weight": None}, "lacks conv1.weight"),
        ({"conv9.weight": torch.ones(1)}, "has the unknown conv9.weight"),
        ({"conv1.weight": torch.ones(1)}, "has another shape for conv1.weight"),
    ],
)
def test_weights_of_another_encoder_are_rejected(tmp_path: Path, changes, problem: str) -> None:
    state = {**encoder_state("resnet18"), **changes}
    torch.save({name: value for name, value in state.items() if value is not None}, tmp_path / "encoder.pth")
    with pytest.raises(WeightsError, match=f"must fit smp's resnet18, but it {problem}"):
        build(weights=str(tmp_path / "encoder.pth"))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty download folders of torch hub and of Hugging Face, without network access."""

    def offline(*args: object, **kwargs: object) -> None:
        raise OSError("no network in this test")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    monkeypatch.setattr(timm_weights, "try_to_load_from_cache", lambda *args, **kwargs: None)
    return tmp_path / "checkpoints"


def test_published_weights_without_network_name_a_file_that_is_then_used(hub: Path) -> None:
    file = hub / "smp-hub_resnet18.imagenet.safetensors"
    with pytest.raises(WeightsError) as caught:
        build(weights="imagenet")
    message = str(caught.value)
    assert message.startswith(f"backbone.weights (=imagenet) needs {file}, which could not be downloaded from https://")
    assert "\n" not in message
    state = encoder_state("resnet18")
    save_file(state, file)
    loaded = build(weights="imagenet").network.encoder.state_dict()
    assert all(torch.equal(loaded[name], value) for name, value in state.items())
    file.write_bytes(b"damaged")
    with pytest.raises(WeightsError, match=r"cannot read .*; delete it"):
        build(weights="imagenet")


def test_encoders_without_imagenet_weights_name_their_own() -> None:
    with pytest.raises(WeightsError, match=r"\(=imagenet\) must be ssl or swsl, or the path .*resnext101_32x4d"):
        build(encoder="resnext101_32x4d", weights="imagenet")


def test_normalization_is_that_of_the_weights() -> None:
    half = ((0.5,) * 3, (0.5,) * 3)
    assert smp_weights.normalization("xception", "none") == half
    assert smp_weights.normalization("tu-vit_tiny_patch16_224", "none") == half
    assert smp_weights.normalization("efficientnet-b0", "advprop") == half
    assert smp_weights.normalization("efficientnet-b0", "imagenet")[0] == (0.485, 0.456, 0.406)
    network = SegmentationNetwork(fcn.compose("model=smp", "backbone.name=tu-vit_tiny_patch16_224", "model.name=dpt"))
    assert network.normalization == {"mean": [0.5] * 3, "std": [0.5] * 3}
    assert smp_weights.normalization("dpn68", "imagenet")[1] == pytest.approx((0.23482446870963955,) * 3)

"""Backbones of timm: feature maps of any image size, grids, dilation, and weights that are loaded completely or not."""

import random
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from fcn.config import ConfigError
from fcn.models import cell_positions, timm_architectures
from fcn.models.cell_positions import measure_offsets
from fcn.models.timm_architectures import find_architecture, output_strides, unused_parameters
from fcn.models.timm_backbones import TimmBackbone, build_timm_backbone, configured_architecture
from fcn.models.weights import WeightsError
from tests.unit.models.timm_cases import build_fcn

TINY = (
    "test_efficientnet",
    "test_resnet",
    "test_mambaout",
    "test_convnext",
    "test_vit",
    "tf_mobilenetv3_small_minimal_100",
)
"""Any size; average pooling in shortcuts; NHWC; whole cells only; a single map; padding as in TensorFlow."""

every_tiny = pytest.mark.parametrize("name", TINY)


def fcn_name(name: str) -> str:
    return "fcn32s" if find_architecture(name).is_single else "fcn8s"


# --- feature maps ---


@every_tiny
@pytest.mark.parametrize("size", [(1, 1), (33, 47), (70, 96)])
def test_logits_have_image_size_and_all_parameters_gradients(name: str, size: tuple[int, int]) -> None:
    model = build_fcn(name, fcn_name(name))
    for score in model.skip_scores:
        torch.nn.init.normal_(score.weight)
    logits = model(torch.randn(2, 3, *size))
    assert logits.shape == (2, 3, *size)
    assert logits.isfinite().all()
    logits.square().mean().backward()
    assert [
        key for key, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None
    ] == []


@every_tiny
def test_maps_equal_those_of_timm(name: str) -> None:
    """timm's own wrappers are the reference; a vision transformer's features are its tokens."""
    backbone = build_timm_backbone(name).eval()
    images = torch.randn(1, 3, 65, 97) if find_architecture(name).remainder else torch.randn(1, 3, 64, 96)
    if find_architecture(name).is_single:
        reference = timm.create_model(name, dynamic_img_size=True, num_classes=0).eval()
        reference.load_state_dict(backbone.layers.state_dict())
        tokens = reference.forward_features(images)[:, reference.num_prefix_tokens :]
        expected = [tokens.transpose(1, 2).reshape(1, -1, 4, 6)]
    else:
        network = timm.create_model(name, features_only=True, out_indices=(-3, -2, -1)).eval()
        values = iter(backbone.layers.state_dict().values())  # the wrapper renames, but keeps the order
        network.load_state_dict(dict(zip(network.state_dict(), values, strict=False)))
        expected = network(images)
        if name == "test_mambaout":
            expected = [features.permute(0, 3, 1, 2) for features in expected]
    for features, reference_features in zip(backbone(images), expected, strict=True):
        torch.testing.assert_close(features, reference_features)


def test_vision_transformer_with_patches_of_14_serves_fcn32s() -> None:
    model = build_fcn(
        "vit_tiny_patch14_dinov2" if "vit_tiny_patch14_dinov2" in timm.list_models() else "eva02_tiny_patch14_224"
    )
    assert model.upscore.stride == (14, 14)
    assert model.upscore.kernel_size == (28, 28)
    assert model(torch.randn(1, 3, 15, 29)).shape == (1, 3, 15, 29)


def test_mean_and_std_belong_to_the_weights() -> None:
    assert build_timm_backbone("test_vit").mean == (0.5, 0.5, 0.5)
    assert build_timm_backbone("resnet10t").std == (0.229, 0.224, 0.225)


def test_depths_of_a_vision_transformer_follow_its_blocks() -> None:
    backbone = build_timm_backbone("test_vit")
    depths = backbone.layer_ids()
    assert set(depths) == {name for name, _ in backbone.named_parameters()}
    assert depths["layers.patch_embed.proj.weight"] == depths["layers.pos_embed"] == 0
    assert [depths[f"layers.blocks.{block}.mlp.fc1.weight"] for block in range(6)] == [1, 2, 3, 4, 5, 6]
    assert depths["layers.norm.weight"] == 6


def test_unused_branches_of_hrnet_are_frozen() -> None:
    architecture = find_architecture("hrnet_w18_small")
    assert unused_parameters(architecture, 3) < unused_parameters(architecture, 1)
    backbone = build_timm_backbone("hrnet_w18_small")
    backbone.use_maps(1)
    backbone.eval()(torch.randn(1, 3, 32, 32))[-1].sum().backward()
    assert all((parameter.grad is None) is not parameter.requires_grad for parameter in backbone.parameters())


# --- what is refused ---


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("convnext_tinny", r"must be an architecture of timm [\d.]+; did you mean convnext_tiny"),
        ("hf-hub:someone/something", r"must be an architecture of timm"),
        ("test_vit.other", r"must end in a tag of timm's weights for test_vit: r160_in1k$"),
        ("levit_128s", r"must have feature maps of strides 8, 16 and 32 .*, but has strides 16, 32, 64"),
        ("test_coatnet", r"must give complete feature maps for images of any size"),
    ],
)
def test_architecture_that_does_not_fit_is_rejected(name: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=rf"^backbone.name \(={name}\) {problem}"):
        find_architecture(name)


@pytest.mark.parametrize(
    ("name", "output_stride", "allowed"),
    [("test_mambaout", 16, "32"), ("test_resnet", 12, "8 or 16 or 32"), ("test_vit", 8, "16")],
)
def test_unsupported_output_stride_is_rejected(name: str, output_stride: int, allowed: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"^backbone.output_stride \(={output_stride}\) must be {allowed} on {name};"
    ):
        configured_architecture(name, output_stride)


def test_cells_without_centre_are_rejected_for_centered_alignment() -> None:
    with pytest.raises(
        ConfigError, match=r"^model.alignment \(=centered\) must be chapter on test_resnet, whose cells"
    ):
        build_fcn("test_resnet", alignment="centered")


# --- dilation ---


@pytest.mark.parametrize("output_stride", [8, 16])
def test_dilation_keeps_weights_and_makes_maps_finer(output_stride: int) -> None:
    dilated, plain = (
        build_timm_backbone("test_efficientnet", output_stride=output_stride),
        build_timm_backbone("test_efficientnet"),
    )
    assert [grid.stride for grid in dilated.grids] == [min(stride, output_stride) for stride in (8, 16, 32)]
    assert dilated.state_dict().keys() == plain.state_dict().keys()
    for features, grid in zip(dilated(torch.randn(2, 3, 65, 47)), dilated.grids, strict=True):
        assert features.shape[2:] == (-(-65 // grid.stride), -(-47 // grid.stride))


def test_own_output_stride_changes_nothing() -> None:
    assert configured_architecture("test_resnet", 32) == find_architecture("test_resnet")
    assert output_strides(find_architecture("test_vit")) == [16]


# --- positions of the cells ---


@pytest.mark.parametrize(
    ("name", "output_stride", "offsets"),
    [
        ("resnet18", None, (0, 0, 0)),
        ("resnet18", 8, (0, 0, 0)),
        ("test_convnext", None, (3.5, 7.5, 15.5)),
        ("efficientnet_lite0", None, (0, 0, 0)),
        ("tf_efficientnet_lite0", None, (0, 0, 0)),
        ("mambaout_femto", None, (0, 0, 0)),
    ],
)
def test_measured_offsets_are_centres_of_receptive_fields(
    name: str, output_stride: int | None, offsets: tuple[float, ...]
) -> None:
    """The reference is the first and the last pixel that affect a cell of the network with its own, random kernels."""
    torch.manual_seed(1)
    backbone = build_timm_backbone(name, output_stride=output_stride).double().eval()
    grids = backbone.locate_cells()
    assert tuple(grid.offset for grid in grids) == offsets
    length = 2048 + find_architecture(name).remainder
    images = torch.randn(1, 3, 1, length, dtype=torch.float64, requires_grad=True)
    for features, grid in zip(backbone(images), grids, strict=True):
        cell = 1024 // grid.stride
        (gradient,) = torch.autograd.grad(features[0, :, 0, cell].square().sum(), images, retain_graph=True)
        pixels = gradient.abs().sum(dim=(0, 1, 2)).nonzero().flatten()
        assert 0 < pixels[0] < pixels[-1] < length - 1, "the receptive field must lie inside the image"
        centre = grid.stride * cell + grid.offset
        assert abs(float(pixels[0] + pixels[-1]) / 2 - centre) <= 0.02 * float(pixels[-1] - pixels[0]) + 0.5


def test_patches_of_a_vision_transformer_are_squares() -> None:
    assert measure_offsets(find_architecture("test_vit")) == (7.5,)


# --- reproducibility ---


def generator_states() -> tuple[bytes, object, bytes]:
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), np.random.get_state()[1].tobytes()  # noqa: NPY002


@every_tiny
def test_measurements_leave_random_generators_untouched(name: str) -> None:
    for measured in (find_architecture, timm_architectures.dilate, unused_parameters, measure_offsets):
        measured.cache_clear()
    torch.manual_seed(5)
    before = generator_states()
    with torch.inference_mode():
        architecture = find_architecture(name)
        output_strides(architecture)
        unused_parameters(architecture, 1)
        cell_positions.measure_offsets(architecture)
    assert generator_states() == before


def test_initial_weights_are_those_of_timm_for_the_seed() -> None:
    torch.manual_seed(3)
    reference = timm.create_model("test_convnext").state_dict()
    torch.manual_seed(3)
    state = build_timm_backbone("test_convnext").layers.state_dict()
    assert all(torch.equal(value, reference[key]) for key, value in state.items())


# --- weights ---


def write(file: Path, state: dict[str, Tensor]) -> str:
    save_file(state, file) if file.suffix == ".safetensors" else torch.save(state, file)
    return str(file)


def state_of(name: str, **options: object) -> dict[str, Tensor]:
    torch.manual_seed(7)
    return dict(timm.create_model(name, **options).state_dict())


def assert_loaded(backbone: TimmBackbone, state: dict[str, Tensor]) -> None:
    assert all(torch.equal(value, state[key]) for key, value in backbone.layers.state_dict().items())


@every_tiny
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_file_is_loaded_completely(tmp_path: Path, name: str, suffix: str) -> None:
    state = state_of(name)
    assert_loaded(build_timm_backbone(name, weights=write(tmp_path / f"weights{suffix}", state)), state)


def test_wrapped_file_is_loaded_completely(tmp_path: Path) -> None:
    state = state_of("test_vit")
    torch.save({"model": {f"module.{name}": value for name, value in state.items()}}, tmp_path / "weights.pth")
    assert_loaded(build_timm_backbone("test_vit", weights=str(tmp_path / "weights.pth")), state)


@pytest.mark.parametrize("num_classes", [0, 5])
def test_classifier_of_the_file_is_optional(tmp_path: Path, num_classes: int) -> None:
    state = state_of("test_vit", num_classes=num_classes)
    assert_loaded(build_timm_backbone("test_vit", weights=write(tmp_path / "weights.pth", state)), state)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"blocks.1.norm1.weight": None}, "lacks blocks.1.norm1.weight; use"),
        ({"other.weight": torch.ones(2)}, "has the unknown other.weight; use"),
        ({"blocks.1.norm1.weight": torch.ones(3)}, "has another shape for blocks.1.norm1.weight; use"),
        ({"pos_embed": torch.ones(1, 1 + 14 * 14, 64)}, "has another shape for pos_embed; use"),
    ],
)
def test_file_of_another_network_is_rejected(tmp_path: Path, changes: dict[str, Tensor | None], problem: str) -> None:
    state = {key: value for key, value in (state_of("test_vit") | changes).items() if value is not None}
    with pytest.raises(WeightsError, match=rf"must fit timm's test_vit, but it {problem}"):
        build_timm_backbone("test_vit", weights=write(tmp_path / "weights.pth", state))


def test_damaged_safetensors_file_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "weights.safetensors").write_bytes(b"half a download")
    with pytest.raises(WeightsError, match="must be a state dict"):
        build_timm_backbone("test_vit", weights=str(tmp_path / "weights.safetensors"))


def test_names_of_other_libraries_are_converted(tmp_path: Path) -> None:
    """OpenCLIP stores timm's network inside its own, without timm's classifier."""
    state = state_of("test_convnext")
    renamed = {f"visual.trunk.{key}": value for key, value in state.items() if not key.startswith("head.fc.")}
    renamed["visual.head.proj.weight"] = torch.ones(8, 64)
    assert_loaded(build_timm_backbone("test_convnext", weights=write(tmp_path / "weights.pth", renamed)), state)


def test_file_of_the_authors_of_dinov2_is_loaded(tmp_path: Path) -> None:
    """It has the mask token of the training and no classifier: `backbone.weights=dinov2_vits14_pretrain.pth`."""
    state = state_of("test_vit")
    theirs = {key: value for key, value in state.items() if not key.startswith("head.")}
    theirs["mask_token"] = torch.ones(1, state["cls_token"].shape[-1])
    assert_loaded(build_timm_backbone("test_vit", weights=write(tmp_path / "weights.pth", theirs)), state)


@pytest.mark.realdata
def test_genuine_weights_give_the_features_of_timm(lite0_weights: Path) -> None:
    backbone = build_timm_backbone("tf_efficientnet_lite0", weights=str(lite0_weights)).eval()
    assert (backbone.mean, backbone.channels) == ((0.5, 0.5, 0.5), (40, 112, 320))
    reference = timm.create_model("tf_efficientnet_lite0", checkpoint_path=lite0_weights).eval()
    images = torch.randn(1, 3, 97, 129)
    _, expected = reference.forward_intermediates(images, indices=[2, 3, 4])
    for features, reference_features in zip(backbone(images), expected, strict=True):
        assert torch.equal(features, reference_features)


@pytest.mark.realdata
def test_genuine_weights_of_another_architecture_are_rejected(lite0_weights: Path) -> None:
    with pytest.raises(WeightsError, match="must fit timm's tf_efficientnet_lite1, but it lacks"):
        build_timm_backbone("tf_efficientnet_lite1", weights=str(lite0_weights))


# --- published weights ---


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty folders of torch hub and Hugging Face, without network access."""

    def offline(*args: object, **kwargs: object) -> None:
        raise urllib.error.URLError("no network in this test")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "huggingface"))
    monkeypatch.setattr("torch.hub.urlopen", offline)
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize("file", ["test_vit.r160_in1k.safetensors", "test_vit.r160_in1k.pth"])
@pytest.mark.parametrize("name", ["test_vit", "test_vit.r160_in1k"])
def test_published_weights_are_read_from_hub_folder(hub: Path, name: str, file: str) -> None:
    state = state_of("test_vit")
    write(hub / file, state)
    assert_loaded(build_timm_backbone(name, weights="imagenet"), state)


def test_published_weights_are_read_from_hugging_face_cache(hub: Path, tmp_path: Path) -> None:
    repository = tmp_path / "huggingface" / "models--timm--test_vit.r160_in1k"
    for folder in ("refs", "snapshots/abc"):
        (repository / folder).mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    state = state_of("test_vit")
    write(repository / "snapshots" / "abc" / "model.safetensors", state)
    assert_loaded(build_timm_backbone("test_vit", weights="imagenet"), state)


def test_failed_download_names_file_and_url(hub: Path) -> None:
    with pytest.raises(WeightsError) as caught:
        build_timm_backbone("test_vit", weights="imagenet")
    url = "https://huggingface.co/timm/test_vit.r160_in1k/resolve/main/model.safetensors"
    file = hub / "test_vit.r160_in1k.safetensors"
    for part in (f"needs {file}, ", url, "no network in this test", "put the file there, or use backbone.weights=none"):
        assert part in str(caught.value)
    assert list(hub.iterdir()) == []


def test_damaged_download_is_to_be_deleted(hub: Path) -> None:
    (hub / "test_vit.r160_in1k.safetensors").write_bytes(b"half a download")
    with pytest.raises(WeightsError, match=r"cannot read .*test_vit.r160_in1k.safetensors; delete it, or use backbone"):
        build_timm_backbone("test_vit", weights="imagenet")


def test_architecture_without_published_weights_is_rejected(hub: Path) -> None:
    with pytest.raises(WeightsError, match=r"must exist for resnet200, but timm [\d.]+ publishes none"):
        build_timm_backbone("resnet200", weights="imagenet")

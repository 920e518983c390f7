"""Prediction with a trained network: whole, tiled, averaged over views; invalid images and checkpoints."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.nn import functional as F

from fcn import config as configuration
from fcn.config import Config, ConfigError, InferenceConfig, option
from fcn.config.choices import Accelerator, Inference, InferencePrecision
from fcn.data.dataset_options import ShapesConfig, ShapesData, VocData
from fcn.inference.predictor import Predictor, load, load_network, predict_logits
from fcn.inference.tiling import tiles
from fcn.models.network import IMAGENET_MEAN, IMAGENET_STD, SegmentationNetwork
from fcn.runs.checkpoints import CheckpointError, find_checkpoint, network_weights
from tests.voc_tree import noise

BIAS = "model.score_fr.bias"


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    data, backbone = VocData(classes=["background", "cat", "dog"]), option("backbone", "squeezenet1_0")
    return SegmentationNetwork(Config(name="x", data=data, backbone=backbone)).eval()


def save(network, path, **changes):
    """Save a checkpoint of the network; `changes` replace entries of its state dict, None removes one."""
    state = {**network.state_dict(), **changes}
    state = {name: value for name, value in state.items() if value is not None}
    path.parent.mkdir(exist_ok=True)
    torch.save({"config": configuration.to_container(network.config), "state_dict": state}, path)
    return path


def as_batch(image):
    return torch.from_numpy(image).permute(2, 0, 1).unsqueeze(0)


def test_logits_are_those_of_the_model_for_the_normalised_image(network):
    image = noise(37, 50)
    mean, std = np.array(IMAGENET_MEAN), np.array(IMAGENET_STD)
    normalised = torch.from_numpy(((image / 255 - mean) / std).transpose(2, 0, 1)).float()
    expected = network.model(normalised.unsqueeze(0))[0]
    logits = Predictor(network).logits(image)
    assert logits.shape == (3, 37, 50)
    torch.testing.assert_close(logits, expected.detach(), rtol=1e-4, atol=1e-4)


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(1, 10), st.integers(1, 150), st.integers(1, 8))
def test_tiles_cover_every_pixel_with_the_smallest_number(height, width, tile_height, tile_width):
    covered = np.zeros((height, width), int)
    boxes = tiles((height, width), (tile_height, tile_width))
    for rows, columns in boxes:
        window = covered[rows, columns]
        assert window.shape == (min(height, tile_height), min(width, tile_width))
        window += 1
    assert covered.min() >= 1
    assert len(boxes) == -(-height // tile_height) * -(-width // tile_width)


def test_single_tile_equals_whole_image(network):
    image = noise(32, 40)
    tiled = Predictor(network, InferenceConfig(inference=Inference.tiled, tile_size=[32, 64]))
    assert torch.equal(tiled.logits(image), Predictor(network).logits(image))


def test_logits_of_overlapping_tiles_are_averaged(network):
    image = noise(40, 70)
    total, count = np.zeros((3, 40, 70)), np.zeros((40, 70))
    # By hand: two rows of tiles start 8 pixels apart, three columns 19 pixels apart.
    for top in (0, 8):
        for left in (0, 19, 38):
            window = image[top : top + 32, left : left + 32]
            with torch.no_grad():
                total[:, top : top + 32, left : left + 32] += network(as_batch(window))[0].numpy()
            count[top : top + 32, left : left + 32] += 1
    logits = Predictor(network, InferenceConfig(inference=Inference.tiled, tile_size=[32, 32])).logits(image)
    np.testing.assert_allclose(logits.numpy(), total / count, rtol=1e-4, atol=1e-4)


class Pointwise(torch.nn.Module):
    """Network whose logits of a pixel are its red and green, so that tiling has no effect."""

    device = torch.device("cpu")
    config = Config()

    def forward(self, images):
        return images[:, :2].float()


@given(height=st.integers(1, 100), width=st.integers(1, 100), tile=st.tuples(*[st.sampled_from([32, 64, 96])] * 2))
def test_pointwise_network_gives_the_same_logits_for_any_tile_size(height, width, tile):
    network = Pointwise()
    network.config.data.classes = ["a", "b"]
    predictor = Predictor(network, InferenceConfig(inference=Inference.tiled, tile_size=list(tile)))
    image = noise(height, width)
    np.testing.assert_allclose(predictor.logits(image), image[..., :2].transpose(2, 0, 1), rtol=1e-6)


def test_flip_and_scales_average_probabilities(network):
    image = noise(36, 44)
    batch = as_batch(image).float() / 255
    expected = []
    for height, width in ((36, 44), (18, 22), (54, 66)):
        scaled = F.interpolate(batch, (height, width), mode="bilinear", align_corners=False, antialias=height < 36)
        for axes in ((), (3,)):
            with torch.no_grad():
                scores = network(scaled.flip(axes)).flip(axes)
            resized = F.interpolate(scores, (36, 44), mode="bilinear", align_corners=False)
            expected.append(resized.double().softmax(1)[0])
    predictor = Predictor(network, InferenceConfig(flip=True, scales=[1.0, 0.5, 1.5]))
    probabilities = predictor.probabilities(image)
    torch.testing.assert_close(probabilities.double(), sum(expected) / 6, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(probabilities.sum(0), torch.ones(36, 44))


def test_flip_makes_the_prediction_of_a_mirrored_image_the_mirrored_prediction(network):
    image = noise(33, 50)
    predictor = Predictor(network, InferenceConfig(flip=True))
    mirrored = predictor.logits(image[:, ::-1])
    assert torch.equal(mirrored, predictor.logits(image).flip(-1))
    assert not torch.allclose(Predictor(network).logits(image[:, ::-1]), Predictor(network).logits(image).flip(-1))


@pytest.fixture(scope="module")
def other(network):
    """A network of other weights and normalisation."""
    torch.manual_seed(1)
    config = Config(name="y", data=network.config.data, backbone=option("backbone", "squeezenet1_0"))
    other = SegmentationNetwork(config).eval()
    other.set_normalization({"mean": [0.5, 0.4, 0.3], "std": [0.1, 0.2, 0.3]})
    return other


def mean_probabilities(image, *networks):
    """Return the mean of the softmax of networks, float64 [C, H, W]."""
    with torch.no_grad():
        return sum(network(as_batch(image))[0].double().softmax(0) for network in networks) / len(networks)


def test_several_networks_average_probabilities(network, other):
    image = noise(33, 50)
    expected = mean_probabilities(image, network, other)
    assert not torch.allclose(expected, mean_probabilities(image, network), atol=0.01)
    predictor = Predictor([network, other])
    torch.testing.assert_close(predictor.probabilities(image).double(), expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(predictor.predict(image), expected.argmax(0).numpy())


@pytest.mark.parametrize(
    "keys",
    [{"flip": True}, {"scales": [0.5, 1.5], "flip": True}, {"inference": Inference.tiled, "tile_size": [32, 32]}],
)
def test_views_and_tiles_are_averaged_over_networks(network, other, keys):
    image, one = noise(40, 50), InferenceConfig(**keys)
    expected = sum(Predictor(each, one).probabilities(image).double() for each in (network, other)) / 2
    torch.testing.assert_close(Predictor([network, other], one).probabilities(image).double(), expected)


def test_list_of_one_network_is_that_network(network):
    image = noise(33, 50)
    assert torch.equal(Predictor([network]).logits(image), Predictor(network).logits(image))


def test_network_with_itself_predicts_its_own_masks(network):
    image = noise(33, 50)
    top = Predictor(network).probabilities(image).topk(2, dim=0).values
    differs = Predictor([network, network]).predict(image) != Predictor(network).predict(image)
    assert not differs[(top[0] - top[1] > 1e-6).numpy()].any()


def test_networks_of_other_classes_are_rejected(network):
    config = Config(name="x", data=VocData(classes=["background", "cow", "dog"]), backbone=network.config.backbone)
    message = r"run 2 \(classes background,cow,dog\) must have the classes of run 1 \(background,cat,dog\), because"
    with pytest.raises(ConfigError, match=message):
        Predictor([network, SegmentationNetwork(config)])


def test_checkpoints_are_averaged(network, other, tmp_path):
    image = noise(20, 30)
    mean_std = {name: getattr(other, name).flatten().tolist() for name in ("mean", "std")}
    path = save(other, tmp_path / "other.ckpt")
    torch.save({**torch.load(path), "normalization": mean_std}, path)
    predictor = load([save(network, tmp_path / "first.ckpt"), str(path)])
    assert torch.equal(predictor.logits(image), Predictor([network, other]).logits(image))
    with pytest.raises(CheckpointError, match=r"run \(=null\) must be a run directory"):
        load([])


def test_averaged_logits_are_finite_where_probabilities_underflow(network):
    certain = copy.deepcopy(network)
    with torch.no_grad():
        certain.model.score_fr.bias.copy_(torch.tensor([0.0, 500.0, -500.0]))
    logits = Predictor(certain, InferenceConfig(flip=True)).logits(noise(64, 64))[:, 32, 32]
    assert logits.isfinite().all()
    assert logits[1] == 0  # logarithm of probability 1
    assert logits[2] < logits[0] < -100  # these probabilities underflow in float32


@pytest.mark.parametrize("inference", [Inference.whole, Inference.tiled])
def test_bf16_is_that_of_autocast(network, inference):
    image = noise(64, 96)
    given = {"inference": inference, "tile_size": [64, 96], "accelerator": Accelerator.cpu}
    logits = Predictor(network, InferenceConfig(precision=InferencePrecision.bf16, **given)).logits(image)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        expected = network(as_batch(image))[0]
    assert expected.dtype is torch.bfloat16
    assert logits.dtype is torch.float32
    assert torch.equal(logits, expected.float())
    full = Predictor(network, InferenceConfig(**given)).logits(image)
    assert 0 < (full - logits).abs().max() < 0.1 * logits.abs().max()
    with torch.autocast("cpu", torch.bfloat16):  # of the caller
        assert torch.equal(Predictor(network, InferenceConfig(**given)).logits(image), full)


def test_batch_gives_the_logits_of_its_images(network):
    first, second = noise(20, 30), noise(20, 30, seed=1)
    predictor = Predictor(network, InferenceConfig(inference=Inference.tiled, tile_size=[32, 32], flip=True))
    batch = predictor.batch_logits(torch.cat([as_batch(first), as_batch(second)]))
    for logits, image in zip(batch, (first, second), strict=True):
        torch.testing.assert_close(logits, predictor.logits(image), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), r"image \(shape \[4, 4, 3\], float32\) must be uint8 \[H, W, 3\] in RGB"),
        (np.zeros((4, 4), np.uint8), r"image \(shape \[4, 4\], uint8\) must be uint8"),
        (np.zeros((3, 4, 4), np.uint8), r"image \(shape \[3, 4, 4\], uint8\) must be uint8"),
        (Image.new("RGB", (0, 4)), r"must be uint8 \[H, W, 3\]"),
        (Image.new("F", (4, 4)), r"image \(mode F\) must hold integer pixels"),
    ],
)
def test_invalid_images_are_rejected(network, image, message):
    with pytest.raises(ValueError, match=message):
        Predictor(network).logits(image)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tile_size": [33, 32]}, r"tile_size \(=\[33, 32\]\) must be two multiples of 32"),
        pytest.param(
            {"accelerator": Accelerator.gpu},
            r"accelerator \(=gpu\) needs a GPU",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is available"),
        ),
    ],
)
def test_invalid_settings_are_rejected(network, settings, message):
    with pytest.raises(ConfigError, match=message):
        Predictor(network, InferenceConfig(**settings))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA"])
def test_images_of_any_mode_are_predicted_in_rgb(network, mode):
    image = Image.effect_noise((33, 20), 80).convert(mode)
    predictor = Predictor(network)
    assert torch.equal(predictor.logits(image), predictor.logits(np.asarray(image.convert("RGB"))))
    mask = predictor.predict(image)
    assert (mask.shape, mask.dtype) == ((20, 33), np.uint8)
    np.testing.assert_array_equal(mask, predictor.logits(image).argmax(0))


def test_predict_logits_restores_the_training_mode(network):
    network.train()
    predict_logits(network, torch.zeros(3, 16, 16, dtype=torch.uint8))
    assert network.training
    network.eval()


def test_checkpoint_file_is_sufficient(network, tmp_path):
    image = Image.effect_noise((33, 20), 80)
    predictor = load(save(network, tmp_path / "run.ckpt"))
    assert predictor.classes == ["background", "cat", "dog"]
    assert torch.equal(predictor.logits(image), Predictor(network).logits(image))


def test_run_directory_gives_its_best_checkpoint_else_its_last(network, tmp_path):
    with pytest.raises(CheckpointError, match=r"must be a run with a saved .*, but .*last\.ckpt is missing"):
        load(tmp_path)
    last = save(network, tmp_path / "checkpoints" / "last.ckpt")
    assert find_checkpoint(tmp_path) == last
    best = save(network, tmp_path / "checkpoints" / "best.ckpt", **{BIAS: network.state_dict()[BIAS] + 1})
    assert find_checkpoint(str(tmp_path)) == best
    assert find_checkpoint(last) == last
    assert torch.equal(load(tmp_path).network.state_dict()[BIAS], network.state_dict()[BIAS] + 1)


WITHOUT_LIGHTNING = """
import sys
import numpy as np
import fcn
from fcn.cli import (evaluate, export)
run = sys.argv[1]
fcn.load(run).predict(np.zeros((8, 8, 3), np.uint8))
for command, *arguments in (
    (evaluate, "worst=0", "boundary_widths=[]"),
    (export, "sizes=[[8,8]]", "batches=[1]"),
):
    sys.argv = [command.__name__, f"run={run}", *arguments]
    command.main()
print(sorted({"pytorch_lightning", "lightning", "fcn.training.task"} & set(sys.modules)))
"""


@pytest.mark.slow
def test_prediction_evaluation_and_export_import_no_lightning(shapes_root, tmp_path):
    data = ShapesData(root=str(shapes_root), shapes=ShapesConfig(num_train=16, num_val=5))
    config = Config(name="x", data=data, backbone=option("backbone", "squeezenet1_0"))
    save(SegmentationNetwork(config), tmp_path / "run.ckpt")
    arguments = [sys.executable, "-c", WITHOUT_LIGHTNING, str(tmp_path / "run.ckpt")]
    process = subprocess.run(arguments, capture_output=True, text=True, cwd=tmp_path)
    assert process.stdout.splitlines()[-1:] == ["[]"], process.stderr


class Malicious:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_code_in_a_checkpoint_is_not_executed(tmp_path):
    torch.save({"config": Malicious(str(tmp_path / "executed")), "state_dict": {}}, tmp_path / "run.ckpt")
    with pytest.raises(CheckpointError, match="must be a checkpoint saved by"):
        load_network(tmp_path / "run.ckpt")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize("kind", ["empty", "text", "pickle", "truncated", "other keys"])
def test_files_other_than_checkpoints_are_rejected(network, tmp_path, kind):
    path = save(network, tmp_path / "file.ckpt")
    if kind == "other keys":
        torch.save({"weights": {}}, path)
    else:
        contents = {
            "empty": b"",
            "text": b"text",
            "pickle": pickle.dumps([1, 2]),
            "truncated": path.read_bytes()[:-1000],
        }
        path.write_bytes(contents[kind])
    with pytest.raises(CheckpointError, match=r"file\.ckpt must be a checkpoint saved by train\.py"):
        load_network(path)


@pytest.mark.parametrize(
    ("bias", "message"),
    [
        (None, r"must hold the weights of its own .*: Missing .*score_fr\.bias"),
        (torch.full((3,), torch.nan), r"but model\.score_fr\.bias has NaN or infinity"),
    ],
)
def test_invalid_weights_are_rejected(network, tmp_path, bias, message):
    path = save(network, tmp_path / "run.ckpt", **{BIAS: bias})
    with pytest.raises(CheckpointError, match=message):
        load_network(path)


def test_network_weights_have_the_names_of_the_model(network, tmp_path):
    weights, expected = network_weights(save(network, tmp_path / "run.ckpt")), network.model.state_dict()
    assert list(weights) == list(expected)
    assert all(torch.equal(weights[name], expected[name]) for name in expected)


def test_network_weights_require_a_configuration(tmp_path):
    torch.save({"config": "text", "state_dict": {}}, tmp_path / "odd.ckpt")
    with pytest.raises(CheckpointError, match=r"saved by train\.py, but lacks config or state_dict"):
        network_weights(tmp_path / "odd.ckpt")

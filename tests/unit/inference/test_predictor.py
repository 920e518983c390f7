"""A trained network applied to images, and files that are no trained network."""

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
from fcn.config import BackboneConfig, Config, ConfigError, DataConfig, InferenceConfig
from fcn.config.choices import Accelerator, BackboneName, Inference
from fcn.data import shapes
from fcn.inference.predictor import Predictor, load, load_network, predict_logits
from fcn.inference.tiling import tiles
from fcn.models.network import IMAGENET_MEAN, IMAGENET_STD, SegmentationNetwork
from fcn.runs.checkpoints import CheckpointError, find_checkpoint, network_weights


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    data = DataConfig(classes=["background", "cat", "dog"])
    return SegmentationNetwork(
        Config(name="x", data=data, backbone=BackboneConfig(name=BackboneName.squeezenet1_0))
    ).eval()


@pytest.fixture
def checkpoint(network, tmp_path):
    path = tmp_path / "run.ckpt"
    torch.save({"config": configuration.to_container(network.config), "state_dict": network.state_dict()}, path)
    return path


def test_logits_are_the_models_of_the_normalised_image(network):
    image = np.random.default_rng(0).integers(0, 256, (37, 50, 3), np.uint8)
    mean, std = np.array(IMAGENET_MEAN), np.array(IMAGENET_STD)
    normalised = torch.from_numpy(((image / 255 - mean) / std).transpose(2, 0, 1)).float()
    expected = network.model(normalised.unsqueeze(0))[0]
    logits = Predictor(network).logits(image)
    assert logits.shape == (3, 37, 50)
    torch.testing.assert_close(logits, expected.detach(), rtol=1e-4, atol=1e-4)


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def as_batch(image):
    return torch.from_numpy(image).permute(2, 0, 1).unsqueeze(0)


@settings(deadline=None)
@given(st.integers(1, 300), st.integers(1, 10), st.integers(1, 150), st.integers(1, 8))
def test_tiles_are_the_fewest_that_cover_every_pixel(height, width, tile_height, tile_width):
    covered = np.zeros((height, width), int)
    found = tiles((height, width), (tile_height, tile_width))
    for rows, columns in found:
        window = covered[rows, columns]
        assert window.shape == (min(height, tile_height), min(width, tile_width))
        window += 1
    assert covered.min() >= 1
    fewest = -(-height // tile_height) * -(-width // tile_width)
    assert len(found) == fewest


def test_an_image_that_fits_one_tile_has_the_logits_of_the_whole(network):
    image = noise(32, 40)
    tiled = Predictor(network, InferenceConfig(inference=Inference.tiled, tile_size=[32, 64]))
    assert torch.equal(tiled.logits(image), Predictor(network).logits(image))


def test_where_tiles_overlap_their_logits_are_averaged(network):
    image = noise(40, 70)
    total, count = np.zeros((3, 40, 70)), np.zeros((40, 70))
    # By hand: two rows of tiles with 8 spare pixels, three columns with 38.
    for top in (0, 8):
        for left in (0, 19, 38):
            window = image[top : top + 32, left : left + 32]
            with torch.no_grad():
                total[:, top : top + 32, left : left + 32] += network(as_batch(window))[0].numpy()
            count[top : top + 32, left : left + 32] += 1
    found = Predictor(network, InferenceConfig(inference=Inference.tiled, tile_size=[32, 32])).logits(image)
    np.testing.assert_allclose(found.numpy(), total / count, rtol=1e-4, atol=1e-4)


class Pointwise(torch.nn.Module):
    """A network that sees single pixels, so that tiles cannot change its scores: red and green."""

    device = torch.device("cpu")
    config = Config()

    def forward(self, images):
        return images[:, :2].float()


@given(height=st.integers(1, 100), width=st.integers(1, 100), tile=st.tuples(*[st.sampled_from([32, 64, 96])] * 2))
def test_tiles_of_any_size_leave_every_pixel_its_own_score(height, width, tile):
    network = Pointwise()
    network.config.data.classes = ["a", "b"]
    predictor = Predictor(network, InferenceConfig(inference=Inference.tiled, tile_size=list(tile)))
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
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


def test_with_flip_the_mirrored_image_has_the_mirrored_prediction(network):
    image = noise(33, 50)
    predictor = Predictor(network, InferenceConfig(flip=True))
    mirrored = predictor.logits(image[:, ::-1])
    assert torch.equal(mirrored, predictor.logits(image).flip(-1))
    assert not torch.allclose(Predictor(network).logits(image[:, ::-1]), Predictor(network).logits(image).flip(-1))


def test_averaged_logits_stay_finite_where_probabilities_vanish(network):
    sure = copy.deepcopy(network)
    with torch.no_grad():
        sure.model.score_fr.bias.copy_(torch.tensor([0.0, 500.0, -500.0]))
    found = Predictor(sure, InferenceConfig(flip=True)).logits(noise(64, 64))[:, 32, 32]
    assert found.isfinite().all()
    assert found[1] == 0  # the logarithm of certainty
    assert found[2] < found[0] < -100  # float32 has no probability as small


def test_probabilities_sum_to_one(network):
    found = Predictor(network).probabilities(noise(20, 30))
    torch.testing.assert_close(found.sum(0), torch.ones(20, 30))
    assert found.min() >= 0


def test_a_batch_has_the_logits_of_its_images(network):
    first, second = noise(20, 30), noise(20, 30, seed=1)
    predictor = Predictor(network, InferenceConfig(inference=Inference.tiled, tile_size=[32, 32], flip=True))
    found = predictor.batch_logits(torch.cat([as_batch(first), as_batch(second)]))
    for one, image in zip(found, (first, second), strict=True):
        torch.testing.assert_close(one, predictor.logits(image), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), r"image \(shape \[4, 4, 3\], float32\) must be uint8 \[H, W, 3\] in RGB"),
        (np.zeros((4, 4), np.uint8), r"image \(shape \[4, 4\], uint8\) must be uint8"),
        (np.zeros((3, 4, 4), np.uint8), r"image \(shape \[3, 4, 4\], uint8\) must be uint8"),
        (np.zeros((0, 4, 3), np.uint8), r"image \(shape \[0, 4, 3\], uint8\) must be uint8"),
        (Image.new("RGB", (0, 4)), r"must be uint8 \[H, W, 3\]"),
        (Image.new("F", (4, 4)), r"image \(mode F\) must hold integer pixels"),
    ],
)
def test_what_is_no_image_is_refused(network, image, message):
    with pytest.raises(ValueError, match=message):
        Predictor(network).logits(image)


def test_settings_that_contradict_each_other_are_refused(network):
    with pytest.raises(ConfigError, match=r"tile_size \(=\[33, 32\]\) must be two multiples of 32"):
        Predictor(network, InferenceConfig(tile_size=[33, 32]))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_where_there_is_none(network):
    with pytest.raises(ConfigError, match=r"accelerator \(=gpu\) needs a GPU, and torch sees none"):
        Predictor(network, InferenceConfig(accelerator=Accelerator.gpu))


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK", "1"])
def test_any_mode_is_read_as_its_colours(network, mode):
    image = Image.effect_noise((33, 20), 80).convert(mode)
    predictor = Predictor(network)
    assert torch.equal(predictor.logits(image), predictor.logits(np.asarray(image.convert("RGB"))))
    mask = predictor.predict(image)
    assert (mask.shape, mask.dtype) == ((20, 33), np.uint8)
    np.testing.assert_array_equal(mask, predictor.logits(image).argmax(0))


def test_predicting_in_the_middle_of_training_leaves_the_mode(network):
    network.train()
    predict_logits(network, torch.zeros(3, 16, 16, dtype=torch.uint8))
    assert network.training
    network.eval()


def test_a_checkpoint_is_enough(network, checkpoint):
    image = Image.effect_noise((33, 20), 80)
    predictor = load(checkpoint)
    assert predictor.classes == ["background", "cat", "dog"]
    assert torch.equal(predictor.logits(image), Predictor(network).logits(image))


def test_a_run_gives_its_best_checkpoint_else_its_last(network, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    content = {"config": configuration.to_container(network.config), "state_dict": dict(network.state_dict())}
    torch.save(content, tmp_path / "checkpoints" / "last.ckpt")
    last = load(tmp_path).logits(Image.new("RGB", (8, 8)))
    content["state_dict"]["model.score_fr.bias"] = content["state_dict"]["model.score_fr.bias"] + 1
    torch.save(content, tmp_path / "checkpoints" / "best.ckpt")
    assert not torch.equal(load(tmp_path).logits(Image.new("RGB", (8, 8))), last)


WITHOUT_LIGHTNING = """
import sys
import numpy as np
import fcn
from fcn.cli import evaluate, export
run, data = sys.argv[1:]
fcn.load(run).predict(np.zeros((8, 8, 3), np.uint8))
for command, *arguments in (
    (evaluate, "worst=0", "boundary_widths=[]", "data=shapes", f"data.root={data}"),
    (export, "sizes=[[8,8]]", "batches=[1]"),
):
    sys.argv = [command.__name__, f"run={run}", *arguments]
    command.main()
print(sorted({"pytorch_lightning", "lightning", "fcn.training"} & set(sys.modules)))
"""


def test_prediction_evaluation_and_export_import_neither_lightning_nor_training(shapes_root, tmp_path):
    data = DataConfig(classes=list(shapes.CLASSES))
    config = Config(name="x", data=data, backbone=BackboneConfig(name=BackboneName.squeezenet1_0))
    state = SegmentationNetwork(config).state_dict()
    torch.save({"config": configuration.to_container(config), "state_dict": state}, tmp_path / "run.ckpt")
    arguments = [sys.executable, "-c", WITHOUT_LIGHTNING, str(tmp_path / "run.ckpt"), str(shapes_root)]
    process = subprocess.run(arguments, capture_output=True, text=True, cwd=tmp_path)
    assert process.stdout.splitlines()[-1:] == ["[]"], process.stderr


class Evil:
    """Creates a file when it is unpickled, as code hidden in a checkpoint would."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_code_in_a_checkpoint_is_not_run(tmp_path):
    trace = tmp_path / "trace"
    torch.save({"config": Evil(str(trace)), "state_dict": {}}, tmp_path / "evil.ckpt")
    with pytest.raises(CheckpointError, match="must be a checkpoint saved by"):
        load_network(tmp_path / "evil.ckpt")
    assert not trace.exists()


@pytest.mark.parametrize(
    "content", [b"", b"text", pickle.dumps([1, 2]), "truncated", "other keys"], ids=lambda value: str(value)[:12]
)
def test_what_is_no_checkpoint_is_refused(checkpoint, tmp_path, content):
    path = tmp_path / "file.ckpt"
    if content == "truncated":
        path.write_bytes(checkpoint.read_bytes()[:-1000])
    elif content == "other keys":
        torch.save({"weights": {}}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"file\.ckpt must be a checkpoint saved by train\.py"):
        load_network(path)


def test_an_absent_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match=r"must be a run with a saved .*, but .*last\.ckpt is missing"):
        load(tmp_path)


def test_the_best_checkpoint_goes_before_the_last(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    last, best = tmp_path / "checkpoints" / "last.ckpt", tmp_path / "checkpoints" / "best.ckpt"
    with pytest.raises(CheckpointError, match=r"must be a run with a saved .*, but .*last\.ckpt is missing"):
        find_checkpoint(tmp_path)
    last.touch()
    assert find_checkpoint(tmp_path) == last
    best.touch()
    assert find_checkpoint(str(tmp_path)) == best
    assert find_checkpoint(last) == last


def test_weights_have_the_names_that_they_have_in_the_network(network, checkpoint):
    found, expected = network_weights(checkpoint), network.model.state_dict()
    assert list(found) == list(expected)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_weights_that_do_not_fit_their_configuration(network, tmp_path):
    state = dict(network.state_dict())
    del state["model.score_fr.bias"]
    torch.save({"config": configuration.to_container(network.config), "state_dict": state}, tmp_path / "less.ckpt")
    with pytest.raises(
        CheckpointError, match=r"less\.ckpt must hold the weights of its own .*: Missing .*score_fr\.bias"
    ):
        load_network(tmp_path / "less.ckpt")


def test_a_checkpoint_of_other_types(tmp_path):
    torch.save({"config": "text", "state_dict": {}}, tmp_path / "odd.ckpt")
    with pytest.raises(CheckpointError, match=r"saved by train\.py, but lacks config or state_dict"):
        network_weights(tmp_path / "odd.ckpt")


def test_a_checkpoint_whose_weights_are_not_finite(network, tmp_path):
    state = {**network.state_dict(), "model.score_fr.bias": torch.full_like(network.model.score_fr.bias, torch.nan)}
    torch.save({"config": configuration.to_container(network.config), "state_dict": state}, tmp_path / "nan.ckpt")
    with pytest.raises(
        CheckpointError, match=r"nan\.ckpt must .*, but model\.score_fr\.bias has NaN or infinity; use ano"
    ):
        load_network(tmp_path / "nan.ckpt")

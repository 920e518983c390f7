"""A trained network applied to images, and files that are no trained network."""

import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from fcn import config as configuration
from fcn.config import BackboneConfig, BackboneName, Config, DataConfig
from fcn.inference import CheckpointError, Predictor, load, load_task, predict_logits
from fcn.task import IMAGENET_MEAN, IMAGENET_STD, SegmentationTask


@pytest.fixture(scope="module")
def task():
    torch.manual_seed(0)
    data = DataConfig(classes=["background", "cat", "dog"])
    return SegmentationTask(
        Config(name="x", data=data, backbone=BackboneConfig(name=BackboneName.squeezenet1_0))
    ).eval()


@pytest.fixture
def checkpoint(task, tmp_path):
    path = tmp_path / "run.ckpt"
    torch.save({"config": configuration.to_container(task.config), "state_dict": task.state_dict()}, path)
    return path


def test_logits_are_the_models_of_the_normalised_image(task):
    image = np.random.default_rng(0).integers(0, 256, (37, 50, 3), np.uint8)
    mean, std = np.array(IMAGENET_MEAN), np.array(IMAGENET_STD)
    normalised = torch.from_numpy(((image / 255 - mean) / std).transpose(2, 0, 1)).float()
    expected = task.model(normalised.unsqueeze(0))[0]
    logits = Predictor(task).logits(image)
    assert logits.shape == (3, 37, 50)
    torch.testing.assert_close(logits, expected.detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA", "CMYK", "1"])
def test_any_mode_is_read_as_its_colours(task, mode):
    image = Image.effect_noise((33, 20), 80).convert(mode)
    predictor = Predictor(task)
    assert torch.equal(predictor.logits(image), predictor.logits(np.asarray(image.convert("RGB"))))
    mask = predictor.predict(image)
    assert (mask.shape, mask.dtype) == ((20, 33), np.uint8)
    np.testing.assert_array_equal(mask, predictor.logits(image).argmax(0))


def test_predicting_in_the_middle_of_training_leaves_the_mode(task):
    task.train()
    predict_logits(task, torch.zeros(3, 16, 16, dtype=torch.uint8))
    assert task.training
    task.eval()


def test_a_checkpoint_is_enough(task, checkpoint):
    image = Image.effect_noise((33, 20), 80)
    predictor = load(checkpoint)
    assert predictor.classes == ["background", "cat", "dog"]
    assert torch.equal(predictor.logits(image), Predictor(task).logits(image))


def test_a_run_gives_its_best_checkpoint_else_its_last(task, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    content = {"config": configuration.to_container(task.config), "state_dict": dict(task.state_dict())}
    torch.save(content, tmp_path / "checkpoints" / "last.ckpt")
    last = load(tmp_path).logits(Image.new("RGB", (8, 8)))
    content["state_dict"]["model.score_fr.bias"] = content["state_dict"]["model.score_fr.bias"] + 1
    torch.save(content, tmp_path / "checkpoints" / "best.ckpt")
    assert not torch.equal(load(tmp_path).logits(Image.new("RGB", (8, 8))), last)


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
        load_task(tmp_path / "evil.ckpt")
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
        load_task(path)


def test_an_absent_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match=r"last\.ckpt must be a checkpoint, but there is no such file"):
        load(tmp_path)

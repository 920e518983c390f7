"""Class weights: accepted values, counting of the training masks, and what a run saves and shows."""

import logging
import signal
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import fcn
from fcn import runs
from fcn.config import ConfigError, option
from fcn.config.composition import compose
from fcn.data.module import VOCDataModule
from fcn.data.statistics import balancing_weights
from fcn.training import task as training_task
from fcn.training.class_counts import count_training_pixels
from fcn.training.task import SegmentationTask
from tests.commands import TINY

RUN = (*TINY, "trainer=cpu", "trainer.sample_images=0")
SIX = "[1,0.5,2,1,1,0]"  # one weight for each class of the synthetic dataset

pytestmark = pytest.mark.usefixtures("without_pictures")


@pytest.mark.parametrize("value", ["null", "median_frequency", SIX])
@pytest.mark.parametrize("loss", ["cross_entropy", "focal"])
def test_accepted_values(loss, value):
    weights = compose(f"loss={loss}", f"loss.class_weights={value}").loss.class_weights
    assert weights == {"null": None, SIX: [1, 0.5, 2, 1, 1, 0]}.get(value, value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("[1,2]", r"loss.class_weights \(=\[1, 2\]\) must be .* each of the 6 classes"),
        ("median", r"\(=median\) must be null, median_frequency, or one number"),
        ("2.0", r"\(=2.0\) must be null"),
        ("[1,1,1,1,1,x]", r"must be null"),
        ("[1,1,1,1,1,-1]", r"must be at least 0"),
        ("[0,0,0,0,0,0]", r"must have a weight above 0"),
    ],
)
def test_invalid_values(value, message):
    with pytest.raises(ConfigError, match=message):
        compose(f"loss.class_weights={value}")


def test_losses_without_class_weights_refuse_them():
    with pytest.raises(ConfigError, match=r"loss.class_weights has no effect"):
        compose("loss=dice", "loss.class_weights=median_frequency")


def test_median_frequency_by_hand():
    # Class 0: 30 of the 40 pixels of both images, class 1: 10 of the 30 pixels of image 1, class 2: none.
    counts = np.array([[10, 0, 0], [20, 10, 0]])
    frequencies = np.array([30 / 40, 10 / 30])
    loss = option("loss", "cross_entropy", class_weights="median_frequency").build(lambda: counts)
    assert loss.state()["class_weights"] == pytest.approx([*(np.median(frequencies) / frequencies), 0])


def test_class_without_pixels_is_named(caplog):
    with caplog.at_level(logging.WARNING):
        option("loss", "focal", class_weights="median_frequency").build(lambda: np.array([[5, 0, 3, 0]]))
    assert "the weight 0: [1, 3]" in caplog.text


def test_masks_without_valid_pixels_are_an_error():
    with pytest.raises(ConfigError, match=r"loss.class_weights \(=median_frequency\) must have training masks"):
        option("loss", "focal", class_weights="median_frequency").build(lambda: np.zeros((2, 3), np.int64))


@pytest.mark.parametrize("configured", [None, [1.0, 2.0]])
def test_masks_are_counted_only_for_median_frequency(configured):
    loss = option("loss", "cross_entropy", class_weights=configured).build(lambda: pytest.fail("counted"))
    assert loss.state().get("class_weights") == configured


def counts_of(config, monkeypatch, *, world_size: int = 1) -> np.ndarray:
    """Pixels of the training masks, added over the processes one after the other."""
    data = VOCDataModule(config)
    data.prepare_data()
    data.setup("fit")
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda counts: None)
    strategy = SimpleNamespace(root_device=torch.device("cpu"))
    trainers = [
        SimpleNamespace(datamodule=data, strategy=strategy, world_size=world_size, global_rank=rank)
        for rank in range(world_size)
    ]
    return sum(count_training_pixels(trainer) for trainer in trainers)


@pytest.mark.parametrize("options", [[], ["data.cache=false"], ["data.protocol=d2l", "data.shapes.num_val=8"]])
def test_counts_of_training_masks(tmp_path, monkeypatch, options):
    config = compose(*RUN, f"data.root={tmp_path}", *options)
    counts = counts_of(config, monkeypatch)
    folder = next(tmp_path.rglob("SegmentationClass"))
    names = (folder.parent / "ImageSets/Segmentation/train.txt").read_text().split()
    masks = [np.array(Image.open(folder / f"{name}.png")) for name in names]
    if "data.protocol=d2l" in options:
        masks = [np.where(mask == 255, 0, mask) for mask in masks]
    expected = [[(mask == number).sum() for number in range(6)] for mask in masks]
    assert counts.tolist() == expected
    assert counts_of(config, monkeypatch, world_size=3).tolist() == expected


def test_resumed_run_keeps_weights_and_does_not_count_again(tmp_path, shapes_root, monkeypatch):
    config = compose(*RUN, f"data.root={shapes_root}", "loss.class_weights=median_frequency")
    run, calls, step = tmp_path / "run", [], SegmentationTask.training_step
    monkeypatch.setattr(
        training_task, "count_training_pixels", lambda trainer: calls.append(1) or count_training_pixels(trainer)
    )

    def interrupted_step(task, *args):
        signal.raise_signal(signal.SIGTERM)
        return step(task, *args)

    monkeypatch.setattr(SegmentationTask, "training_step", interrupted_step)
    with pytest.raises(SystemExit):
        fcn.train(config, run)
    monkeypatch.setattr(SegmentationTask, "training_step", step)
    saved = torch.load(run / runs.LAST, weights_only=True)["loss"]
    expected = balancing_weights(counts_of(config, monkeypatch)).tolist()
    assert saved == {"class_weights": expected}
    assert len(calls) == 1
    fcn.train(config, run)
    assert len(calls) == 1
    assert torch.load(run / runs.LAST, weights_only=True)["loss"] == saved
    header = f"class weights background {expected[0]:.3g}, disc {expected[1]:.3g}"
    assert (run / runs.LOG).read_text().count(header) == 2


def test_changed_class_weights_take_effect_on_resume(tmp_path, shapes_root):
    config = compose(*RUN, f"data.root={shapes_root}", "loss.class_weights=median_frequency", "epochs=1")
    fcn.train(config, tmp_path)
    runs.set_status(tmp_path, "interrupted")
    weights = [1.0, 2.0, 1.0, 1.0, 1.0, 1.0]
    changed = replace(
        config, epochs=2, loss=replace(config.loss, class_weights=weights), allow=["epochs", "loss.class_weights"]
    )
    fcn.train(changed, tmp_path)
    assert torch.load(tmp_path / runs.LAST, weights_only=True)["loss"] == {"class_weights": weights}

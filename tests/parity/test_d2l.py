"""`experiment=d2l` against the loop of the d2l chapter in plain PyTorch: same batches, same losses and weights."""

from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
import torchvision
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import fcn
from fcn import runs
from fcn.config import Config
from fcn.config.composition import compose
from fcn.data.datasets import AUGMENTATION, D2L_CROPS, Crops
from fcn.data.module import VOCDataModule
from fcn.data.sampling import EpochBatches
from fcn.data.transforms import TrainTransform
from fcn.inference.predictor import load_network
from fcn.models.network import IMAGENET_MEAN, IMAGENET_STD, memory_layout
from fcn.training.run_header import loss_line
from fcn.training.task import SegmentationTask
from tests.d2l import d2l_network
from tests.voc_tree import make_voc_tree

CROP = (128, 96)
BATCH = 4
EPOCHS = 2


@pytest.fixture
def voc_tree(tmp_path) -> Path:
    """VOC tree of noise images: max-pooling then meets no ties, which rounding would decide.

    Some images are smaller than the crop; the masks contain all 21 classes and void.
    """
    rng = np.random.default_rng(0)
    lists = {split: [f"{split}_{number}" for number in range(count)] for split, count in (("train", 18), ("val", 9))}
    masks = {}
    for names in lists.values():
        for number, name in enumerate(names):
            width, height = (80, 140) if number % 4 == 3 else (110, 150)
            cells = rng.choice([*range(21), 255], (height // 10 + 1, width // 10 + 1)).astype(np.uint8)
            masks[name] = np.kron(cells, np.ones((10, 10), np.uint8))[:height, :width]
    make_voc_tree(tmp_path / "root", masks, lists)
    return tmp_path / "root"


@pytest.fixture
def config(voc_tree) -> Config:
    """`experiment=d2l` with small crops and without ImageNet weights."""
    return compose(
        "experiment=d2l",
        f"data.root={voc_tree}",
        f"data.crop_size=[{CROP[0]},{CROP[1]}]",
        f"batch_size={BATCH}",
        f"epochs={EPOCHS}",
        "backbone.weights=none",
        "trainer=cpu",
        "trainer.log_every=1",
        "trainer.sample_images=0",
        "trainer.upsampling=transposed",
    )


class ChapterLoop:
    """Network, loss, optimiser and training loop of d2l, section 14.11."""

    def __init__(self, num_classes: int) -> None:
        self.net = d2l_network(num_classes)
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=1e-3, weight_decay=1e-3)

    def take_weights(self, task: SegmentationTask) -> None:
        ours, theirs = task.network.model.state_dict(), self.net.state_dict()
        assert len(ours) == len(theirs)
        self.net.load_state_dict(dict(zip(theirs, ours.values(), strict=True)))
        # The memory layout of our network, so that rounding differs as little as possible.
        self.net.to(memory_format=task.network.layout)

    def step(self, images, masks) -> tuple[float, float]:
        """Make one step; the mean loss per image and the accuracy of the batch, as the chapter prints them."""
        self.net.train()
        self.optimizer.zero_grad()
        prediction = self.net(images)
        loss = F.cross_entropy(prediction, masks, reduction="none").mean(1).mean(1)
        loss.sum().backward()
        self.optimizer.step()
        accuracy = (prediction.argmax(1) == masks).float().mean()
        return float(loss.detach().sum()) / len(images), float(accuracy)

    @torch.no_grad()
    def accuracy(self, batches) -> float:
        self.net.eval()
        hits = [(self.net(images).argmax(1) == masks).double().mean().item() for images, masks in batches]
        return sum(hits) / len(hits)


def chapter_batch(samples, layout):
    """Return float images normalised with ImageNet statistics, and masks in which void is background."""
    normalise = torchvision.transforms.Normalize(mean=IMAGENET_MEAN, std=IMAGENET_STD)
    images = normalise(torch.stack([sample["image"] for sample in samples]).float() / 255)
    masks = torch.stack([sample["mask"] for sample in samples]).long()
    return images.contiguous(memory_format=layout), torch.where(masks == 255, 0, masks)


def batches_of(images, *, epoch, seed, stream, config):
    crops = Crops(images, TrainTransform(CROP, config.data.augmentation), seed=config.seed, stream=stream)
    order = EpochBatches(len(images), batch_size=BATCH, position=lambda: 0, seed=seed)
    steps = len(order)
    order.position = lambda: epoch * steps
    return [chapter_batch([crops[key] for key in keys], memory_layout(config)) for keys in order]


def test_losses_weights_and_accuracies_equal_the_chapters(config, tmp_path):
    torch.set_num_threads(2)
    pl.seed_everything(config.seed, verbose=False)
    chapter = ChapterLoop(len(config.data.classes))
    pl.seed_everything(config.seed, verbose=False)
    chapter.take_weights(SegmentationTask(config))

    metrics = fcn.train(config, tmp_path / "run")

    data = VOCDataModule(config)
    data.setup("fit")
    results, tests = [], []
    for epoch in range(EPOCHS):
        train = batches_of(data.train_images, epoch=epoch, seed=config.seed, stream=AUGMENTATION, config=config)
        results.append([chapter.step(*batch) for batch in train])
        test = batches_of(data.d2l_images, epoch=epoch, seed=None, stream=D2L_CROPS, config=config)
        tests.append(chapter.accuracy(test))

    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    losses = [point.value for point in events.Scalars("train/loss_step")]
    expected = [loss for epoch in results for loss, _ in epoch]
    assert len(losses) == len(expected) >= 5
    torch.testing.assert_close(losses, expected, rtol=1e-4, atol=0)

    steps = len(results[-1])
    assert metrics["d2l/train_loss"] == pytest.approx(sum(loss for loss, _ in results[-1]) / steps, rel=1e-4)
    assert metrics["d2l/train_acc"] == pytest.approx(sum(hit for _, hit in results[-1]) / steps, abs=1e-3)
    assert metrics["d2l/test_acc"] == pytest.approx(tests[-1], abs=1e-3)

    trained = load_network(tmp_path / "run" / runs.LAST).model.state_dict()
    for name, expected_weight, weight in zip(trained, chapter.net.state_dict().values(), trained.values(), strict=True):
        torch.testing.assert_close(weight, expected_weight, rtol=1e-3, atol=2e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_run_header_gives_the_equivalent_lr_of_pixel_mean(config):
    # 1e-3 times the batch size of 4 in this test; 0.032 with the chapter's 32.
    assert loss_line(config) == "image_sum, sgd with lr 0.001, constant schedule; acts like lr 0.004 on pixel_mean"

"""Log and progress bar of a run."""

import logging
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl

from fcn.config import Config
from fcn.config.composition import compose
from fcn.data.sampling import Rounds
from fcn.training.console import ProgressBar, logging_to
from fcn.training.task import SegmentationTask


def test_log_file_holds_the_messages_of_the_run_only(tmp_path, caplog):
    log = logging.getLogger("fcn.anything")
    with logging_to(tmp_path / "train.log"):
        log.warning("within")
    log.warning("after")
    assert [record.message for record in caplog.records] == ["after"]
    assert "within" in (tmp_path / "train.log").read_text()
    assert "after" not in (tmp_path / "train.log").read_text()


def test_progress_bar_shows_the_latest_loss():
    trainer = pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    task, bar = SegmentationTask(compose("backbone=squeezenet1_0")), ProgressBar()
    assert bar.get_metrics(trainer, task) == {}
    task.last_loss = 0.1234
    assert bar.get_metrics(trainer, task) == {"loss": "0.123"}


@pytest.mark.parametrize(
    ("length", "epoch", "label"),
    [
        ({"epochs": 3}, 0, "Epoch 1/3"),
        ({"epochs": 3}, 2, "Epoch 3/3"),
        ({"epochs": None, "steps": 10}, 2, "Step 10/10"),
    ],
)
def test_progress_bar_counts_epochs_from_1_or_steps(length, epoch, label):
    bar, task = ProgressBar(leave=False), pl.LightningModule()
    trainer = pl.Trainer(max_epochs=3, accelerator="cpu", callbacks=[bar], logger=False, enable_checkpointing=False)
    trainer.fit_loop.epoch_progress.current.completed = epoch
    rounds = Rounds(total_steps=10, length=4, start=4 * epoch, end=min(4 * epoch + 4, 10))
    trainer.datamodule = SimpleNamespace(config=Config(**length), rounds=rounds)
    bar.setup(trainer, task, "fit")
    bar.on_train_start(trainer, task)
    try:
        bar.on_train_epoch_start(trainer, task)
        assert bar.train_progress_bar.description.endswith(label.ljust(len("Validation")))
        assert bar.train_progress_bar.total == rounds.end - rounds.start
    finally:
        bar.teardown(trainer, task, "fit")

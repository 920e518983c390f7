"""The trainer that is built, and the progress bar, which only a terminal shows."""

import pytest
import pytorch_lightning as pl

from fcn.cli.train import compose
from fcn.config import ConfigError
from fcn.training.console import ProgressBar
from fcn.training.task import SegmentationTask
from fcn.training.train import build_trainer


@pytest.mark.parametrize(("world", "refused"), [(1, False), (2, True)])
def test_synchronised_batch_norm_needs_gpus_where_there_is_more_than_one_process(monkeypatch, world, refused):
    monkeypatch.setenv("WORLD_SIZE", str(world))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(world))
    config = compose("trainer=cpu", "trainer.devices=null", "trainer.sync_batchnorm=true")
    if refused:
        with pytest.raises(ConfigError, match=r"sync_batchnorm \(=true\) needs GPUs.* use model.freeze_batchnorm"):
            build_trainer(config, callbacks=[])
    else:
        build_trainer(config, callbacks=[])  # whose batch is whole


def test_images_on_the_device_need_a_gpu():
    with pytest.raises(ConfigError, match=r"data\.on_device \(=true\) needs a GPU, .*; use data\.on_device=false"):
        build_trainer(compose("trainer=cpu", "data.on_device=true"), callbacks=[])


def test_the_bar_shows_the_loss_as_it_was_last_looked_at():
    task, bar = SegmentationTask(compose("backbone=squeezenet1_0")), ProgressBar()
    assert bar.get_metrics(pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu"), task) == {}
    task.last_loss = 0.1234
    assert bar.get_metrics(pl.Trainer(logger=False, enable_checkpointing=False, accelerator="cpu"), task) == {
        "loss": "0.123"
    }


@pytest.mark.parametrize(("epoch", "shown"), [(0, "Epoch 1/3"), (2, "Epoch 3/3")])
def test_the_bar_counts_epochs_as_the_log_does(epoch, shown):
    bar, task = ProgressBar(leave=False), pl.LightningModule()
    trainer = pl.Trainer(max_epochs=3, accelerator="cpu", callbacks=[bar], logger=False, enable_checkpointing=False)
    trainer.fit_loop.epoch_progress.current.completed = epoch
    bar.setup(trainer, task, "fit")
    bar.on_train_start(trainer, task)
    try:
        bar.on_train_epoch_start(trainer, task)
        assert bar.train_progress_bar.description.endswith(shown.ljust(len("Validation")))
    finally:
        bar.teardown(trainer, task, "fit")

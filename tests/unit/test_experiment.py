"""The progress bar, which only a terminal shows."""

import pytest
import pytorch_lightning as pl

from fcn.experiment import ProgressBar


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

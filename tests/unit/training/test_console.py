"""Log and progress bar of a run."""

import logging
import re
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl

from fcn.config import Config
from fcn.config.composition import compose
from fcn.data.module import VOCDataModule
from fcn.data.sampling import Rounds
from fcn.training.console import ProgressBar, logging_to
from fcn.training.divergence import TrainingDiverged
from fcn.training.task import SegmentationTask
from fcn.training.trainer import build_trainer
from tests.commands import TINY, train_in_process


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


def test_progress_lines_count_steps_and_epochs_from_1(tmp_path, shapes_root, capsys):
    train_in_process(tmp_path / "run", shapes_root, "trainer.log_seconds=0", "backbone=squeezenet1_0")
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    number = r"\d+\.\d+"
    expected = [
        rf"step {step}/4  epoch {epoch}, loss {number}, {number} images/s, 0:00:\d\d left"
        for step, epoch in ((1, 1), (2, 1), (3, 2), (4, 2))
    ]
    assert len(lines) == len(expected)
    for line, pattern in zip(lines, expected, strict=True):
        assert re.fullmatch(pattern, line), line


@pytest.mark.parametrize("seconds", ["null", "3600"])
def test_short_runs_have_no_progress_lines(tmp_path, shapes_root, capsys, seconds):
    overrides = ("epochs=1", f"trainer.log_seconds={seconds}", "backbone=squeezenet1_0")
    train_in_process(tmp_path / "run", shapes_root, *overrides)
    assert not re.search(r"^(step|validation) ", capsys.readouterr().out, re.M)


DIVERGED = (
    r"train/loss became nan at step 3 \(epoch 2, lr \S+\); try lr=\S+, or a longer warm-up such as schedule\.warmup_"
)


def test_divergence_is_reported_with_the_step_and_epoch_counted_from_1(tmp_path, shapes_root):
    """The loss of step 3, the first of epoch 2, is not finite: NaN weights are written after step 2."""

    class Breaks(pl.Callback):
        def on_train_batch_end(self, trainer, pl_module, *args):
            if trainer.global_step == 2:
                next(pl_module.parameters()).data.fill_(float("nan"))

    config = compose(*TINY, f"data.root={shapes_root}", "trainer=cpu", "trainer.val_every=2")
    trainer = build_trainer(config, callbacks=[Breaks()])
    with pytest.raises(TrainingDiverged, match=DIVERGED):
        trainer.fit(SegmentationTask(config), datamodule=VOCDataModule(config))

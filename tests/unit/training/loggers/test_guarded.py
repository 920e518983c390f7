"""A logger that fails ends no training, and Lightning's own calls of a logger."""

import logging
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.callbacks import LearningRateMonitor
from pytorch_lightning.demos.boring_classes import BoringModel
from pytorch_lightning.loggers.logger import Logger

from fcn.config import Config, LoggerConfig
from fcn.runs import Status
from fcn.training.loggers.guarded import GuardedLogger, build_loggers

PICTURE = Image.new("RGB", (4, 3))


class Calls(Logger):
    """Logger that records its calls, and raises an error in one of them."""

    def __init__(self, fails_in=None):
        super().__init__()
        self.fails_in, self.calls = fails_in, []

    def note(self, name, *arguments):
        self.calls.append((name, *arguments))
        if name == self.fails_in:
            raise RuntimeError("no route\nto host")

    name = version = "calls"

    def log_metrics(self, metrics, step=None):
        self.note("log_metrics", dict(metrics), step)

    def log_hyperparams(self, params, *args, **kwargs):
        self.note("log_hyperparams", params)

    def log_image(self, key, images, step=None):
        self.note("log_image", key, images, step)

    def save(self):
        self.note("save")

    def finalize(self, status):
        self.note("finalize", status)


@dataclass
class Option(LoggerConfig):
    logger: Calls = field(default_factory=Calls)

    def build(self, config, run_dir, step):
        self.logger.note("build", config, run_dir, step)
        return self.logger


@pytest.fixture
def messages(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("fcn"), "propagate", True)
    return lambda: [record.getMessage() for record in caplog.records if record.name.startswith("fcn")]


def use(guarded, *, step=0, status=Status.finished):
    """Make all calls of a run that ends after its first epoch."""
    guarded.start(SimpleNamespace(global_step=step))
    guarded.record({"lr": 0.5}, step + 1)
    guarded.record_pictures({"val/samples": PICTURE}, step + 1)
    guarded.flush()
    guarded.close(status)


def test_logger_receives_everything(tmp_path):
    option, config = Option(), Config(lr=0.25)
    use(GuardedLogger("calls", option, config, tmp_path), step=4)
    build, (kind, values), *others = option.logger.calls
    assert build == ("build", config, tmp_path, 4)
    assert (kind, values["lr"], values["model.init"]) == ("log_hyperparams", 0.25, "bilinear")
    assert others == [
        ("log_metrics", {"lr": 0.5}, 5),
        ("log_image", "val/samples", [PICTURE], 5),
        ("save",),
        ("finalize", "success"),
    ]


@pytest.mark.parametrize(
    ("status", "word"), [("finished", "success"), ("failed", "failed"), ("interrupted", "aborted")]
)
def test_status_is_passed_on_in_the_words_of_lightning(tmp_path, status, word):
    option = Option()
    use(GuardedLogger("calls", option, Config(), tmp_path), status=Status(status))
    assert option.logger.calls[-1] == ("finalize", word)


@pytest.mark.parametrize("call", ["build", "log_hyperparams", "log_metrics", "log_image", "save", "finalize"])
def test_failed_logger_is_off_and_said_once_and_at_the_end(tmp_path, messages, call):
    option = Option(Calls(fails_in=call))
    guarded = GuardedLogger("mine", option, Config(), tmp_path)
    use(guarded)
    guarded.record({"lr": 0.5}, 2)
    assert option.logger.calls[-1][0] == call  # the last one
    assert messages() == [
        "logger mine failed and is off for the rest of the run: RuntimeError: no route to host",
        "logger mine has not received the whole run: RuntimeError: no route to host",
    ]
    assert "raise RuntimeError" in (tmp_path / "train.log").read_text()


def test_logger_without_pictures_receives_scalars(tmp_path, messages):
    class WithoutPictures(Calls):
        log_image = None

    option = Option(WithoutPictures())
    use(GuardedLogger("mine", option, Config(), tmp_path))
    assert [call[0] for call in option.logger.calls] == ["build", "log_hyperparams", "log_metrics", "save", "finalize"]
    assert messages() == []


def test_logger_that_was_not_started_does_nothing(tmp_path, messages):
    """In ranks other than 0, and in a run that fails before its first step."""
    option = Option()
    guarded = GuardedLogger("mine", option, Config(), tmp_path)
    guarded.log_metrics({"lr": 0.5}, 3)
    guarded.record_pictures({"val/samples": PICTURE}, 1)
    guarded.experiment.any_method_of_the_library()
    guarded.flush()
    guarded.close(Status.failed)
    assert option.logger.calls == []
    assert messages() == []


def test_default_loggers_are_those_of_the_configuration(tmp_path):
    (only,) = build_loggers(Config(), tmp_path)
    assert (only.name, only.save_dir) == ("tensorboard", str(tmp_path))
    assert build_loggers(Config(logger={}), tmp_path) == []


class Starting(pl.Callback):
    def on_train_start(self, trainer, pl_module):
        for logger in trainer.loggers:
            logger.start(trainer)


class Logging(BoringModel):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)["loss"]
        self.log("in_step", float(batch_idx), on_step=True, on_epoch=False)
        self.log("in_epoch", float(batch_idx), on_step=False, on_epoch=True)
        return loss

    def on_train_epoch_end(self):
        self.trainer.logger.log_metrics({"by_hand": 1.0}, step=self.trainer.global_step)

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        return [optimizer], [{"scheduler": torch.optim.lr_scheduler.StepLR(optimizer, 1), "interval": "step"}]


@pytest.mark.filterwarnings("ignore")
def test_values_that_lightning_logs_have_the_number_of_steps_made(tmp_path):
    """Two epochs of three steps; Lightning counts steps from 0."""
    option = Option()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_epochs=2,
        limit_train_batches=3,
        limit_val_batches=0,
        logger=[GuardedLogger("calls", option, Config(), tmp_path)],
        log_every_n_steps=1,
        callbacks=[Starting(), LearningRateMonitor()],
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=tmp_path,
    )
    trainer.fit(Logging())
    points = [(name, step) for _, values, step in option.logger.calls[2:] for name in values if name != "epoch"]
    steps = {name: [step for other, step in points if other == name] for name, _ in points}
    assert steps == {
        "in_step": [1, 2, 3, 4, 5, 6],
        "in_epoch": [3, 6],
        "by_hand": [3, 6],
        "lr-SGD": [1, 2, 3, 4, 5, 6],  # logged before each step
    }
    assert all(call[0] == "log_metrics" for call in option.logger.calls[2:])

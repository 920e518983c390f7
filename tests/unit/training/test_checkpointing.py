"""Checkpoints and stop signals between two steps."""

import os
import signal
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from fcn import runs
from fcn.training.checkpointing import Checkpointing


@contextmanager
def handled(number: int, handler):
    """Install a handler before that of the project, as submitit does."""
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


class Trainer(SimpleNamespace):
    """The attributes of a trainer that are used; `saved` lists the paths of checkpoints."""

    world_size = 1
    is_last_batch = False
    is_global_zero = True
    global_step = 1
    should_stop = False
    datamodule = SimpleNamespace(total_steps=8)
    callbacks = ()

    def save_checkpoint(self, path):
        self.saved.append(path)


@pytest.fixture
def trainer():
    return Trainer(saved=[])


@contextmanager
def started(run_dir, trainer):
    """Checkpointing of a run before its first step."""
    with Checkpointing(run_dir) as checkpointing:
        checkpointing.on_train_start(trainer, None)
        yield checkpointing


@pytest.mark.parametrize("number", runs.STOP_SIGNALS)
def test_signal_saves_after_the_step_and_sets_the_exit_status(number, trainer, tmp_path):
    with handled(number, signal.SIG_DFL), started(tmp_path, trainer) as checkpointing:
        checkpointing.on_train_batch_end(trainer, None)
        os.kill(os.getpid(), number)
        assert trainer.saved == []
        with pytest.raises(SystemExit) as end:
            checkpointing.on_train_batch_end(trainer, None)
    assert end.value.code == 128 + number
    assert trainer.saved == [tmp_path / runs.LAST]


def test_earlier_handlers_are_called_after_saving(trainer, tmp_path):
    """The handlers are like submitit's: SIGTERM is ignored, another signal ends the run. Both arrive together."""
    seen = []

    def requeue(number, frame):
        seen.append((number, len(trainer.saved)))
        raise SystemExit(144)

    def bypass(number, frame):
        seen.append((number, len(trainer.saved)))

    with (
        handled(signal.SIGTERM, bypass),
        handled(signal.SIGUSR2, requeue),
        started(tmp_path, trainer) as checkpointing,
    ):
        for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGTERM):
            os.kill(os.getpid(), number)
        assert seen == []
        checkpointing.on_train_batch_end(trainer, None)
        assert seen == [(signal.SIGTERM, 1)]
        with pytest.raises(SystemExit) as end:
            checkpointing.on_train_batch_end(trainer, None)
    assert end.value.code == 144
    assert seen == [(signal.SIGTERM, 1), (signal.SIGUSR2, 2)]


def test_second_ctrl_c_ends_immediately(trainer, tmp_path):
    with started(tmp_path, trainer):
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(SystemExit) as end:
            os.kill(os.getpid(), signal.SIGINT)
    assert end.value.code == 130


@pytest.mark.parametrize("number", runs.STOP_SIGNALS)
def test_signal_before_the_first_step_ends_immediately(number, tmp_path):
    """Decoding the images before the first step may take minutes."""
    with Checkpointing(tmp_path), pytest.raises(SystemExit) as end:
        os.kill(os.getpid(), number)
    assert end.value.code == 128 + number


def test_signal_before_the_first_step_does_not_end_one_of_several_ranks(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with Checkpointing(tmp_path) as checkpointing:
        os.kill(os.getpid(), signal.SIGTERM)
    assert checkpointing.signals.received == [signal.SIGTERM]


def test_checkpoints_by_steps(trainer, tmp_path):
    checkpointing = Checkpointing(tmp_path, steps=3)
    for trainer.global_step in range(1, 9):
        checkpointing.on_train_batch_end(trainer, None)
        assert len(trainer.saved) == trainer.global_step // 3
    trainer.global_step, trainer.is_last_batch = 9, True
    checkpointing.on_train_batch_end(trainer, None)  # saved after validation instead
    assert len(trainer.saved) == 2


def test_checkpoints_by_minutes_since_the_last_one(trainer, tmp_path, monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("fcn.training.checkpointing.time.monotonic", lambda: clock.now)
    checkpointing = Checkpointing(tmp_path, minutes=2)
    saved_at = []
    for clock.now in range(0, 600, 50):
        before = len(trainer.saved)
        checkpointing.on_train_batch_end(trainer, None)
        if len(trainer.saved) > before:
            saved_at.append(clock.now)
        if clock.now == 200:
            checkpointing.save(trainer)
    assert saved_at == [150, 350, 500]
    trainer.is_global_zero = False  # only the clock of rank 0 counts
    clock.now = 10_000
    checkpointing.on_train_batch_end(trainer, None)
    assert len(trainer.saved) == 4


def test_run_ends_after_its_minutes_with_a_checkpoint(trainer, tmp_path, monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("fcn.training.checkpointing.time.monotonic", lambda: clock.now)
    checkpointing = Checkpointing(tmp_path, max_minutes=2)
    clock.now = 119
    checkpointing.on_train_batch_end(trainer, None)
    assert trainer.saved == []
    clock.now = 120
    with pytest.raises(SystemExit) as end:
        checkpointing.on_train_batch_end(trainer, None)
    assert (end.value.code, trainer.saved) == (128 + signal.SIGTERM, [tmp_path / runs.LAST])
    with pytest.raises(SystemExit):  # at the end of an epoch
        checkpointing.stop_if_signalled(trainer)
    trainer.global_step = 8  # the run is complete
    checkpointing.stop_if_signalled(trainer)


def test_stop_signal_takes_precedence_over_the_end_of_the_time(trainer, tmp_path):
    """A launcher such as submitit requeues the job after its own signal."""
    with Checkpointing(tmp_path, max_minutes=0) as checkpointing:
        checkpointing.on_train_start(trainer, None)
        os.kill(os.getpid(), signal.SIGUSR2)
        with pytest.raises(SystemExit) as end:
            checkpointing.on_train_batch_end(trainer, None)
    assert end.value.code == 128 + signal.SIGUSR2

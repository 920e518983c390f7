"""Between two steps: signals, who decides what becomes of a run once it is saved, and checkpoints every so often."""

import os
import signal
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from fcn import runs
from fcn.training import checkpointing
from fcn.training.checkpointing import Checkpointing


@contextmanager
def handled(number: int, handler):
    """Another handler waits for a signal before ours, as submitit's does."""
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


class Trainer(SimpleNamespace):
    """What Checkpointing uses of one; `saved` has the checkpoints."""

    world_size = 1
    is_last_batch = False
    is_global_zero = True
    global_step = 1

    def save_checkpoint(self, path):
        self.saved.append(path)


@pytest.fixture
def trainer():
    return Trainer(saved=[])


@contextmanager
def begun(run_dir, trainer):
    """The save points of a run that is about to make its first step."""
    with Checkpointing(run_dir) as points:
        points.on_train_start(trainer, None)
        yield points


@pytest.mark.parametrize("number", runs.STOP_SIGNALS)
def test_a_signal_saves_after_the_step_and_ends_with_its_number(number, trainer, tmp_path):
    with handled(number, signal.SIG_DFL), begun(tmp_path, trainer) as stop:
        stop.on_train_batch_end(trainer, None)
        os.kill(os.getpid(), number)
        assert trainer.saved == []
        with pytest.raises(SystemExit) as end:
            stop.on_train_batch_end(trainer, None)
    assert end.value.code == 128 + number
    assert trainer.saved == [tmp_path / runs.LAST]


def test_who_waited_for_the_signals_decides_after_the_run_is_saved(trainer, tmp_path):
    """As submitit does: at SIGTERM the run goes on, at its own signal it ends; both at once."""
    seen = []

    def requeue(number, frame):
        seen.append((number, len(trainer.saved)))
        raise SystemExit(144)

    def bypass(number, frame):
        seen.append((number, len(trainer.saved)))

    with (
        handled(signal.SIGTERM, bypass),
        handled(signal.SIGUSR2, requeue),
        begun(tmp_path, trainer) as stop,
    ):
        for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGTERM):
            os.kill(os.getpid(), number)
        assert seen == []
        stop.on_train_batch_end(trainer, None)
        assert seen == [(signal.SIGTERM, 1)]
        with pytest.raises(SystemExit) as end:
            stop.on_train_batch_end(trainer, None)
    assert end.value.code == 144
    assert seen == [(signal.SIGTERM, 1), (signal.SIGUSR2, 2)]


def test_a_second_ctrl_c_ends_at_once(trainer, tmp_path):
    with begun(tmp_path, trainer):
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(SystemExit) as end:
            os.kill(os.getpid(), signal.SIGINT)
    assert end.value.code == 130


@pytest.mark.parametrize("number", runs.STOP_SIGNALS)
def test_before_the_first_step_a_signal_ends_at_once(number, tmp_path):
    """There is nothing to save, and decoding a set may take minutes."""
    with Checkpointing(tmp_path), pytest.raises(SystemExit) as end:
        os.kill(os.getpid(), number)
    assert end.value.code == 128 + number


def test_one_of_several_processes_does_not_leave_the_others_before_the_first_step(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with Checkpointing(tmp_path) as stop:
        os.kill(os.getpid(), signal.SIGTERM)
    assert stop.signals.received == [signal.SIGTERM]


def test_checkpoints_every_so_many_steps(trainer, tmp_path):
    points = Checkpointing(tmp_path, steps=3)
    for trainer.global_step in range(1, 9):
        points.on_train_batch_end(trainer, None)
        assert len(trainer.saved) == trainer.global_step // 3
    trainer.global_step, trainer.is_last_batch = 9, True
    points.on_train_batch_end(trainer, None)  # whose checkpoint comes after its validation
    assert len(trainer.saved) == 2


def test_checkpoints_every_so_many_minutes_since_the_last_one_whatever_asked_for_it(trainer, tmp_path, monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(checkpointing.time, "monotonic", lambda: clock.now)
    points = Checkpointing(tmp_path, minutes=2)
    saved_at = []
    for clock.now in range(0, 600, 50):
        before = len(trainer.saved)
        points.on_train_batch_end(trainer, None)
        if len(trainer.saved) > before:
            saved_at.append(clock.now)
        if clock.now == 200:
            points.save(trainer)
    assert saved_at == [150, 350, 500]
    trainer.is_global_zero = False  # whose clock does not count
    clock.now = 10_000
    points.on_train_batch_end(trainer, None)
    assert len(trainer.saved) == 4

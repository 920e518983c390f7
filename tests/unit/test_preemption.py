"""Signals to a run, and who decides what becomes of it once it is saved."""

import os
import signal
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
from lightning_fabric.plugins.environments import LightningEnvironment
from torch.utils.data import DataLoader

from fcn import experiment, preemption, runs
from fcn.data.module import _leave_signals_to_the_run
from fcn.launch import compose
from fcn.slots import Job
from fcn.stopping import StopOnSignal


@contextmanager
def handled(number: int, handler):
    """Another handler waits for a signal before ours, as submitit's does."""
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)


class Trainer(SimpleNamespace):
    """What StopOnSignal uses of one; `saved` has the checkpoints."""

    world_size = 1
    is_last_batch = False

    def save_checkpoint(self, path):
        self.saved.append(path)


@pytest.fixture
def trainer():
    return Trainer(saved=[])


@pytest.mark.parametrize("number", runs.STOP_SIGNALS)
def test_a_signal_saves_after_the_step_and_ends_with_its_number(number, trainer, tmp_path):
    with handled(number, signal.SIG_DFL), StopOnSignal(tmp_path / "last.ckpt") as stop:
        stop.on_train_batch_end(trainer, None)
        os.kill(os.getpid(), number)
        assert trainer.saved == []
        with pytest.raises(SystemExit) as end:
            stop.on_train_batch_end(trainer, None)
    assert end.value.code == 128 + number
    assert trainer.saved == [tmp_path / "last.ckpt"]


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
        StopOnSignal(tmp_path / "last.ckpt") as stop,
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
    with StopOnSignal(tmp_path / "last.ckpt"):
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_loader_processes_leave_the_signals_to_the_run():
    """A cluster signals them too; without this the loader raises that its worker was killed."""
    loader = iter(DataLoader(range(40), num_workers=1, worker_init_fn=_leave_signals_to_the_run))
    first = next(loader)
    for number in runs.STOP_SIGNALS:
        os.kill(loader._workers[0].pid, number)
    assert [int(batch) for batch in [first, *loader]] == list(range(40))


def test_a_process_of_a_slurm_job_is_a_run_of_its_own(monkeypatch):
    """With these variables Lightning by itself takes the process for one of four, and SIGUSR1 for its own."""
    slurm = {"JOB_ID": "7", "JOB_NAME": "fcn", "NTASKS": "4", "NTASKS_PER_NODE": "2", "NNODES": "2"}
    for name, value in {**slurm, "PROCID": "3", "LOCALID": "1", "NODEID": "1"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    trainer = experiment.build_trainer(compose("trainer=cpu"), callbacks=[])
    assert (trainer.world_size, trainer.global_rank, trainer.num_nodes) == (1, 0, 1)
    assert isinstance(trainer._accelerator_connector.cluster_environment, LightningEnvironment)
    theirs = pl.Trainer(accelerator="cpu", devices=2, num_nodes=2, logger=False)
    assert theirs._accelerator_connector.cluster_environment.global_rank() == 3


def test_a_job_that_fails_says_why_and_leaves_the_handlers(tmp_path):
    (tmp_path / runs.CONFIG).write_text("lr: fast\n")
    before = [signal.getsignal(number) for number in runs.STOP_SIGNALS]
    with pytest.raises(preemption.JobFailed, match=f"{tmp_path.name}: lr.*'fast'"):
        preemption.execute(Job(tmp_path))
    assert [signal.getsignal(number) for number in runs.STOP_SIGNALS] == before

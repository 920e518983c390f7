"""Jobs of a cluster: their signals and environment variables."""

import functools
import multiprocessing
import os
import signal

import pytest
import pytorch_lightning as pl
from lightning_fabric.plugins.environments import LightningEnvironment
from torch.utils.data import DataLoader

from fcn import runs
from fcn.config.composition import compose
from fcn.data.module import _ignore_stop_signals
from fcn.execution import cluster_jobs
from fcn.execution.jobs import Job
from fcn.training.trainer import build_trainer


def test_loader_processes_ignore_stop_signals():
    """A cluster also sends the signals to them; without this, the loader would report a killed worker."""
    ending = multiprocessing.Event()
    leave = functools.partial(_ignore_stop_signals, ending=ending)
    loader = iter(DataLoader(range(40), num_workers=1, worker_init_fn=leave, persistent_workers=True))
    first = next(loader)
    for number in runs.STOP_SIGNALS:
        os.kill(loader._workers[0].pid, number)
    assert [int(batch) for batch in [first, *loader]] == list(range(40))
    ending.set()  # as this process does before multiprocessing ends its children and waits for them
    os.kill(loader._workers[0].pid, signal.SIGTERM)
    loader._workers[0].join(timeout=20)
    assert loader._workers[0].exitcode == 0


def test_process_of_a_slurm_job_is_a_run_of_its_own(monkeypatch):
    """By default Lightning infers from these variables that the process is one of four."""
    slurm = {"JOB_ID": "7", "JOB_NAME": "fcn", "NTASKS": "4", "NTASKS_PER_NODE": "2", "NNODES": "2"}
    for name, value in {**slurm, "PROCID": "3", "LOCALID": "1", "NODEID": "1"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    trainer = build_trainer(compose("trainer=cpu"), callbacks=[])
    assert (trainer.world_size, trainer.global_rank, trainer.num_nodes) == (1, 0, 1)
    assert isinstance(trainer._accelerator_connector.cluster_environment, LightningEnvironment)
    default = pl.Trainer(accelerator="cpu", devices=2, num_nodes=2, logger=False)
    assert default._accelerator_connector.cluster_environment.global_rank() == 3


def test_failed_job_raises_its_reason_and_restores_signal_handlers(tmp_path):
    (tmp_path / runs.CONFIG).write_text("lr: fast\n")
    before = [signal.getsignal(number) for number in runs.STOP_SIGNALS]
    with pytest.raises(cluster_jobs.JobFailed, match=f"{tmp_path.name}: .*lr \\(=fast\\)"):
        cluster_jobs.execute_until_finished(Job(tmp_path))
    assert [signal.getsignal(number) for number in runs.STOP_SIGNALS] == before

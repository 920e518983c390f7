"""Runs on a cluster, with preemption: nodes started by torchrun, SLURM jobs, and sweeps submitted by submitit."""

import os
import random
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fcn import runs
from tests.commands import ROOT, TINY, processes_of, wait_for
from tests.identical_runs import assert_identical

pytestmark = pytest.mark.slow
# Small steps, many enough to be preempted in between, and validations before and after.
SMALL = (*TINY, "optim=sgd", "data.crop_size=[32,32]", "trainer.sample_images=0")
LONG = ("epochs=24", "trainer.val_every=8")
LAST_STEP = 48


def environment(**more: str) -> dict[str, str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": path} | more


def prepared(command, name: str, *overrides: str) -> Path:
    """Return a run directory that has not been executed."""
    done = command(*SMALL, f"data.root={command.data}", f"name={name}", "execute=false", *overrides)
    assert done.returncode == 0, done.stderr
    (printed,) = done.stdout.splitlines()
    assert command.folder / printed == command.run_of(name)
    return Path(printed)


@pytest.fixture
def start(command):
    """Start a process in the folder of the test; it is terminated after the test."""
    started = []

    def start(line: list[object], **variables: str) -> subprocess.Popen:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        started.append(subprocess.Popen(line, cwd=command.folder, env=environment(**variables), **pipes))
        return started[-1]

    yield start
    for process in started:
        process.terminate()


def torchrun(run: Path, *options: str) -> list[object]:
    return [sys.executable, "-m", "torch.distributed.run", *options, "-m", "fcn.worker", run]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.exhaustive
def test_two_nodes_are_bit_identical_to_one_node(command, start):
    together, apart = (prepared(command, name, "trainer=cpu") for name in ("together", "apart"))
    rendezvous = ("--rdzv-backend=c10d", f"--rdzv-endpoint=localhost:{free_port()}", "--rdzv-id=1", "--nnodes=2")
    for lines in (
        [torchrun(apart, *rendezvous, "--nproc-per-node=1", f"--node-rank={number}") for number in range(2)],
        [torchrun(together, "--standalone", "--nproc-per-node=2")],
    ):
        for node in [start(line) for line in lines]:
            out, _ = node.communicate(timeout=280)
            assert node.returncode == 0, out
    assert_identical(command.folder / apart, command.folder / together)
    assert runs.read_summary(command.folder / apart)["world_size"] == 2


# Nodes are processes here. As SLURM's, they get the signals that srun gets.
SRUN = """#!/usr/bin/env bash
while [[ $1 == -* ]]; do shift; done
for node in $(seq "$SLURM_NNODES"); do "$@" & steps+=($!); done
trap 'kill -TERM "${steps[@]}"' TERM
for step in "${steps[@]}"; do
  wait "$step"; status=$?
  while kill -0 "$step" 2>/dev/null; do wait "$step"; status=$?; done
  worst=$((status > ${worst:-0} ? status : ${worst:-0}))
done
exit "$worst"
"""
SCONTROL = """#!/usr/bin/env bash
if [[ $1 == show ]]; then echo localhost; else echo "$@" >> requeued; fi
"""


@pytest.fixture
def slurm(command, start):
    """Start scripts/slurm.sh in the environment of a SLURM job."""
    bin_ = command.folder / "bin"
    bin_.mkdir()
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (bin_ / name).write_text(text)
        (bin_ / name).chmod(0o755)
    variables = {"SLURM_JOB_ID": str(random.randrange(10**6)), "SLURM_NNODES": "1", "SLURM_JOB_NODELIST": "here"}
    # As in a job of two tasks; our processes must not behave like one of these tasks.
    variables |= {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    path = f"{bin_}{os.pathsep}{environment()['PATH']}"
    return lambda run: start(["bash", ROOT / "scripts" / "slurm.sh", run], PATH=path, **variables)


@pytest.mark.exhaustive
def test_slurm_job_requeues_itself_when_preempted_and_not_when_finished(command, slurm, start):
    run, alone = prepared(command, "run", *LONG, "trainer=cpu"), prepared(command, "alone", *LONG, "trainer=cpu")
    requeued = command.folder / "requeued"
    job = slurm(run)
    wait_for(lambda: (command.folder / run / runs.LAST).exists(), process=job, seconds=280)
    job.send_signal(signal.SIGUSR1)
    out, _ = job.communicate(timeout=280)
    assert job.returncode != 0
    assert requeued.read_text().startswith("requeue "), out
    assert runs.read_summary(command.folder / run)["status"] == "interrupted", out
    step = torch.load(command.folder / run / runs.LAST, weights_only=True)["global_step"]
    assert 2 <= step < LAST_STEP
    requeued.unlink()
    for again in (lambda: slurm(run), lambda: start([sys.executable, "-m", "fcn.worker", alone])):
        process = again()
        out, _ = process.communicate(timeout=280)
        assert process.returncode == 0, out
    assert not requeued.exists()
    assert_identical(command.folder / run, command.folder / alone)


@pytest.mark.exhaustive
def test_failed_slurm_job_is_not_requeued(command, slurm):
    (command.folder / "no_folder").write_text("")
    run = prepared(command, "broken", "data.root=no_folder")
    job = slurm(run)
    out, _ = job.communicate(timeout=280)
    assert job.returncode != 0
    assert "no_folder" in out
    assert not (command.folder / "requeued").exists()


@pytest.mark.exhaustive
@pytest.mark.parametrize("trainer", ["cpu", "ddp_cpu"])
def test_preempted_job_of_a_sweep_is_requeued_and_resumed(command, trainer):
    """SLURM preempts with SIGTERM, which submitit ignores, and immediately afterwards submitit's own signal."""
    options = (*LONG, f"trainer={trainer}")
    keys = (f"data.root={command.data}", "name=sweep", "lr=choice(0.001)", "hydra/launcher=slurm_local")
    sweep = command.start("-m", *SMALL, *options, *keys)
    folder = command.folder / "outputs" / "sweep"
    wait_for(lambda: any(folder.glob(f"*/0_lr-0.001/{runs.LAST}")), process=sweep, seconds=280)
    (run,) = folder.glob("*/0_lr-0.001")
    (job,) = processes_of("submitit.core._submit", str(run.parent))
    for number in (signal.SIGTERM, signal.SIGUSR2):
        os.kill(job, number)
    wait_for(lambda: not Path(f"/proc/{job}").exists(), process=sweep, seconds=280)
    assert runs.read_summary(run)["status"] == "interrupted"
    assert torch.load(run / runs.LAST, weights_only=True)["global_step"] < LAST_STEP
    out, err = sweep.communicate(timeout=280)
    assert sweep.returncode == 0, out + err
    (log,) = run.parent.glob(".submitit/*/*_log.out")
    assert "Requeued job" in log.read_text()
    alone = command.train(*SMALL, *options, "lr=0.001", name="alone")
    assert_identical(command.folder / run, command.folder / alone)

"""One process against several at the same global batch size: two gloo processes on a CPU, or all GPUs."""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks.results import Result
from benchmarks.settings import Settings, make_tree
from benchmarks.startup import seconds_of
from benchmarks.timing import compare_in_turns
from benchmarks.training_run import QUIET_EPOCHS
from fcn import runs
from fcn.config import Config
from fcn.training.train import build_task


def measure_ddp(settings: Settings) -> list[Result]:
    """Compare the time per step in the second epoch of a run; empty on a machine with one GPU."""
    processes = torch.cuda.device_count() if settings.on_gpu else 2
    if processes < 2:
        return []
    num_images = max(settings.steps, 2) * settings.batch_size
    tree = make_tree(settings.folder / "ddp-tree", num_train=num_images, num_val=processes, source=settings.data_root)
    one, several = (
        settings.config(tree, settings.variants[0], f"trainer.devices={devices}", "epochs=2", *QUIET_EPOCHS)
        for devices in (1, processes)
    )
    size = sum(p.numel() * p.element_size() for p in build_task(one).parameters() if p.requires_grad)
    sent = 2 * (processes - 1) / processes * size  # ring all-reduce: reduce-scatter, then all-gather
    result = compare_in_turns(
        settings,
        f"{processes} processes, global batch size {settings.batch_size}",
        "1 process",
        "speedup",
        ours=lambda: _milliseconds_per_step(settings, several),
        theirs=lambda: _milliseconds_per_step(settings, one),
        rounds=settings.process_rounds,
        warm_up=False,  # every round starts new processes
        note=f"{size / 1e6:.1f} MB of gradients per step; in a ring every process sends {sent / 1e6:.1f} MB",
    )
    return [result]


def _milliseconds_per_step(settings: Settings, config: Config) -> float:
    """Execute a new run as `python train.py` does, and return the time per step of its last epoch."""
    run_dir = settings.folder / f"ddp-run-{sum(1 for _ in settings.folder.glob('ddp-run-*'))}"
    runs.create(run_dir, config)
    seconds_of("-m", "fcn.worker", str(run_dir), folder=settings.folder)
    return last_epoch_ms_per_step(run_dir, config.batch_size)


def last_epoch_ms_per_step(run_dir: Path, batch_size: int) -> float:
    """Return the milliseconds per step of the last epoch; images_per_second in metrics.csv counts from the start."""
    rows = runs.read_metrics(run_dir)
    steps = [0, *(int(row["step"]) for row in rows)]
    seconds = [0.0, *(int(row["step"]) * batch_size / float(row["images_per_second"]) for row in rows)]
    return 1000 * (seconds[-1] - seconds[-2]) / (steps[-1] - steps[-2])

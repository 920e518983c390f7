"""One process against several at an equal global batch: two by gloo on the CPU, all GPUs where there are several."""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks.measuring import alternate
from benchmarks.results import Findings, speedup
from benchmarks.settings import Settings, make_tree
from benchmarks.start import seconds_of
from benchmarks.training import UNMEASURED
from fcn import runs
from fcn.config import Config
from fcn.training.train import build_task


def measure(settings: Settings) -> Findings:
    """Seconds per step in a run's second epoch; on a machine with one GPU nothing."""
    processes = torch.cuda.device_count() if settings.on_gpu else 2
    if processes < 2:
        return Findings()
    steps = max(settings.steps, 2)
    num_images = steps * settings.batch_size
    tree = make_tree(settings.folder / "ddp-tree", num_train=num_images, num_val=processes, source=settings.data_root)
    variant = settings.variants[0]
    several = settings.config(tree, variant, f"trainer.devices={processes}", "epochs=2", *UNMEASURED)
    one = settings.config(tree, variant, "trainer.devices=1", "epochs=2", *UNMEASURED)
    name = f"{processes} processes at a global batch of {settings.batch_size}"
    found = alternate(
        {"theirs": lambda: _milliseconds(settings, one), "ours": lambda: _milliseconds(settings, several)},
        rounds=settings.slow_rounds,
        tell=lambda line: settings.tell(f"{name}: {line}"),
        warm_up=False,  # every turn is made by new processes
    )
    size = sum(p.numel() * p.element_size() for p in build_task(one).parameters() if p.requires_grad)
    sent = 2 * (processes - 1) / processes * size  # a ring: reduced in parts, then gathered
    note = f"gradients of {size / 1e6:.1f} MB are reduced a step; in a ring every process sends {sent / 1e6:.1f} MB"
    return Findings([speedup(name, "1 process", ours=found["ours"], theirs=found["theirs"], note=note)])


def _milliseconds(settings: Settings, config: Config) -> float:
    """Of a step in the second epoch of a new run, executed as `python train.py` executes it."""
    number = sum(1 for _ in settings.folder.glob("ddp-run-*"))
    run_dir = settings.folder / f"ddp-run-{number}"
    runs.create(run_dir, config)
    seconds_of(("-m", "fcn.worker", str(run_dir)), settings.folder)
    return milliseconds_of_last_epoch(run_dir, config.batch_size)


def milliseconds_of_last_epoch(run_dir: Path, batch_size: int) -> float:
    """Of a step in the last epoch of a finished run, from its metrics.csv, whose images/s count from the beginning."""
    rows = runs.read_metrics(run_dir)
    steps = [0, *(int(row["step"]) for row in rows)]
    seconds = [0.0, *(int(row["step"]) * batch_size / float(row["images_per_second"]) for row in rows)]
    return 1000 * (seconds[-1] - seconds[-2]) / (steps[-1] - steps[-2])

"""Profilers: where the time of a run goes."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.profilers import AdvancedProfiler, Profiler, SimpleProfiler
from torch import profiler

from fcn.config.choices import ProfilerName
from fcn.runs import is_rank_zero

log = logging.getLogger(__name__)

PROFILE = "profile"
"""Folder in the run directory for the results."""

TRACE = "operations.pt.trace.json"
"""File that Perfetto, chrome://tracing and TensorBoard's plugin for profiles open."""

TABLE = "operations.txt"

NUM_OPERATIONS = 10
"""Number of rows in the table of operations."""

SCHEDULE = {"skip_first": 1, "wait": 0, "warmup": 1, "active": 3, "repeat": 1}
"""Steps that are recorded: not the first one, in which memory is allocated; few, because traces are large."""

NUM_STEPS = SCHEDULE["skip_first"] + SCHEDULE["warmup"] + SCHEDULE["active"]


def build_profiler(name: ProfilerName | None, run_dir: Path) -> Profiler | None:
    """Return Lightning's profiler of the hooks; None for other names, and in all ranks but rank 0."""
    folder = run_dir / PROFILE
    if name is ProfilerName.simple and is_rank_zero():
        return SimpleProfiler(dirpath=folder, filename=name.value)
    if name is ProfilerName.advanced and is_rank_zero():
        return AdvancedProfiler(dirpath=folder, filename=name.value)
    return None


class OperationProfiler(pl.Callback):
    """Records the operations of a few training steps on the CPU and the GPU with torch.profiler; rank 0 only.

    Lightning's PyTorchProfiler also records validations and its own hooks, which hides the operations.

    Args:
        run_dir: run directory.
    """

    def __init__(self, run_dir: Path) -> None:
        self.folder = run_dir / PROFILE
        self._profiler: Any = None
        self._num_steps = 0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # its messages would be printed to the terminal
            schedule = profiler.schedule(**SCHEDULE)
            self._profiler = profiler.profile(schedule=schedule, on_trace_ready=self._write, record_shapes=True)
            self._profiler.start()

    def on_train_batch_end(self, *args: Any) -> None:
        if self._profiler is not None:
            self._num_steps += 1
            self._profiler.step()

    def on_train_epoch_end(self, *args: Any) -> None:
        self._stop()  # a validation must not be recorded as part of a step

    def on_validation_start(self, *args: Any) -> None:
        self._stop()

    def on_exception(self, *args: Any) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._profiler is not None:
            self._profiler.stop()
            self._profiler = None
            if self._num_steps < NUM_STEPS:
                log.warning(
                    "profile  incomplete: trainer.profiler=pytorch needs %d steps before the first validation, but "
                    "there were %d; use a smaller batch_size or trainer.val_every_steps=%d",
                    *(NUM_STEPS, self._num_steps, NUM_STEPS),
                )

    def _write(self, recorded: Any) -> None:
        self.folder.mkdir(exist_ok=True)
        recorded.export_chrome_trace(str(self.folder / TRACE))
        averages = recorded.key_averages()
        on_gpu = any(event.self_device_time_total for event in averages)
        key = "self_device_time_total" if on_gpu else "self_cpu_time_total"
        table = averages.table(sort_by=key, row_limit=NUM_OPERATIONS)
        (self.folder / TABLE).write_text(f"{table}\n", encoding="utf-8")
        log.info("profile  %s (open it in ui.perfetto.dev) and %s in %s", TRACE, TABLE, self.folder)
        for line in _most_expensive(averages, key):
            log.info("         %s", line)


def _most_expensive(averages: Sequence[Any], key: str) -> list[str]:
    """Return share, time, calls and name of the operations that take most of the time in the attribute `key`."""
    operations = [event for event in averages if not event.key.startswith("ProfilerStep")]
    total = sum(getattr(event, key) for event in operations) or 1
    operations.sort(key=lambda event: getattr(event, key), reverse=True)
    times = [(getattr(event, key), event.count, event.key[:80]) for event in operations[:NUM_OPERATIONS]]
    return [f"{100 * time / total:4.1f} %  {time / 1e6:.3f} s  {count} calls of {name}" for time, count, name in times]

"""Between two steps: a run is saved every so often, and stopped from outside, so that it goes on later bit for bit."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO

from fcn import runs
from fcn.runs.atomic_files import replacing
from fcn.runs.stop_signals import SignalNotes

SAVE = 1  # below all signals that stop a run: where processes disagree, a signal decides


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint under a temporary name and renames it: a name never stands for half a file."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary, open(temporary, "wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())  # or a power cut could leave the new name and not the content


def save_checkpoint(trainer: pl.Trainer, run_dir: Path, *, best: bool = False) -> None:
    """Save where training stands as the last checkpoint, and keep the one before; a collective.

    Args:
        trainer: of the run.
        run_dir: of the run.
        best: whether it is the best as well.
    """
    last = run_dir / runs.LAST
    if trainer.is_global_zero and last.exists():
        runs.copy_file(last, run_dir / runs.PREVIOUS)
    # The best is written first: after a kill in between, the run goes on from the older last and comes by again.
    trainer.save_checkpoint(run_dir / runs.BEST if best else last)
    if best and trainer.is_global_zero:
        runs.copy_file(run_dir / runs.BEST, last)


class SavePoints(pl.Callback):
    """`runs.STOP_SIGNALS` end the run after the current step, with a checkpoint to go on from bit for bit.

    Before the first step, as while images are decoded, they end a run of one process at once. Then the handler only
    takes note. All processes agree on a signal after a step, save together and exit with 128 + signal;
    where somebody waited for the signal before us, as submitit does, it decides, see `runs.hand_over`. A second Ctrl-C
    ends the program at once; other signals may well come twice, from a cluster to all processes and from the agent.

    Args:
        run_dir: of the run.
        steps: between two checkpoints; None: not by steps.
        minutes: between two checkpoints; None: not by the clock. The clock is process 0's.

    Attributes:
        saved_step: from which the run goes on; None before the first checkpoint.
    """

    def __init__(self, run_dir: Path, *, steps: int | None = None, minutes: float | None = None) -> None:
        self.run_dir = run_dir
        self.steps = steps
        self.minutes = minutes
        self.signals = SignalNotes(self._react)
        # One process that has not begun has nothing to save; of several, one that left would hang the others.
        self._ends_at_once = int(os.environ.get("WORLD_SIZE", "1")) == 1
        self.saved_step: int | None = None
        self._saved_at = time.monotonic()
        self._group: Any = None  # torch's default

    def __enter__(self) -> SavePoints:
        self.signals.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self.signals.__exit__(*exception)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Lightning has put its own handler for SIGTERM around ours, which would end the run without saving.
        self.signals.install()
        self._ends_at_once = False
        self._saved_at = time.monotonic()
        self.saved_step = trainer.global_step or None
        if trainer.world_size > 1 and dist.get_backend() != "gloo":
            self._group = dist.new_group(backend="gloo")  # agreeing must not wait for the GPUs

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        # After the last step of an epoch comes its validation, which a resumed run would miss: on_train_epoch_end.
        if not trainer.is_last_batch:
            number = self._agreed(trainer)
            if number:
                self.save(trainer)
            self._hand_over(number)

    def save(self, trainer: pl.Trainer, *, best: bool = False) -> None:
        """Save where training stands, see `save_checkpoint`; a collective."""
        save_checkpoint(trainer, self.run_dir, best=best)
        self._saved_at = time.monotonic()
        self.saved_step = trainer.global_step

    def stop_if_asked(self, trainer: pl.Trainer) -> None:
        """Leave the program if any process has received a signal, unless who waited for it goes on; a collective."""
        self._hand_over(self._agreed(trainer))

    def _hand_over(self, number: int) -> None:
        if number > SAVE:
            self.signals.hand_over(number)

    def _agreed(self, trainer: pl.Trainer) -> int:
        """The greatest signal that any process has received, `SAVE` if a checkpoint is due, or 0; a collective."""
        number = max(self.signals.received, default=SAVE if self._is_due(trainer) else 0)
        if trainer.world_size > 1:
            flag = torch.tensor(number)
            dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self._group)
            number = int(flag)
        return number

    def _is_due(self, trainer: pl.Trainer) -> bool:
        if self.steps and trainer.global_step % self.steps == 0:
            return True
        elapsed = time.monotonic() - self._saved_at
        return self.minutes is not None and trainer.is_global_zero and elapsed >= 60 * self.minutes

    def _react(self, number: int) -> None:
        if number == signal.SIGINT:
            signal.signal(number, _end)
        if self._ends_at_once:
            self._hand_over(number)


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)  # of a KeyboardInterrupt, Lightning would make status 1

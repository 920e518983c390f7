"""Checkpoints during training: when they are saved, how they are written, and how a stop signal ends a run."""

from __future__ import annotations

import io
import logging
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.callbacks import Checkpoint

from fcn import runs
from fcn.config import ConfigError
from fcn.runs import provenance
from fcn.runs.atomic_files import replacing
from fcn.runs.resume import confirm_start
from fcn.runs.stop_signals import SignalNotes

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from fcn.training.recording import Recording

SAVE, END = 1, 2
"""Requests of a rank: save a checkpoint, or also end the run because its time is over. The request of a stop signal is
`END` plus its number, so that a signal takes precedence if ranks disagree."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints under a temporary name and renames them: a checkpoint is complete or missing."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        check_states_are_plain(checkpoint.get("callbacks", {}))
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary, open(temporary, "wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())  # a power failure could otherwise leave the new name without its content


def save_checkpoint(trainer: pl.Trainer, run_dir: Path, *, best: bool = False) -> None:
    """Save the state of training as the last checkpoint, and keep the previous one; a collective operation.

    Args:
        trainer: trainer of the run.
        run_dir: run directory.
        best: whether to save it as the best checkpoint too.
    """
    last = run_dir / runs.LAST
    if trainer.is_global_zero and last.exists():
        runs.copy_file(last, run_dir / runs.PREVIOUS)
    # The best one is written first: if the run is killed in between, it resumes from the older last checkpoint and
    # saves both again.
    trainer.save_checkpoint(run_dir / runs.BEST if best else last)
    if best and trainer.is_global_zero:
        runs.copy_file(run_dir / runs.BEST, last)


def check_states_are_plain(states: Mapping[str, Any]) -> None:
    """Check that the states of callbacks can be loaded with `weights_only=True`, as checkpoints are.

    Raises:
        ConfigError: naming the callback and the type of the first other value.
    """
    for callback, state in states.items():
        content = io.BytesIO()
        try:
            torch.save(state, content)
            content.seek(0)
            names = torch.serialization.get_unsafe_globals_in_checkpoint(content)
        except Exception as error:  # pickle raises many types, for example for a lambda
            names = [f"a value that cannot be saved ({error})"]
        if names:
            raise ConfigError(
                f"the state of the callback {callback} must be plain data (tensors, numbers, texts, lists, dicts), but "
                f"has {names[0]}; change what its method state_dict returns"
            )


class Checkpointing(pl.Callback):
    """Saves checkpoints between steps, and ends the run after a stop signal with one from which it can be resumed.

    Use it as a context manager around `Trainer.fit`. In training, the handler of `runs.STOP_SIGNALS` only notes the
    signal. After the step all ranks agree on it, save together and exit with status 128 + signal, or call the handler
    that was set before, such as submitit's; see `fcn.runs.stop_signals`. A second Ctrl-C ends the process immediately;
    other signals may arrive twice, from a cluster and from torchrun. Before the first step a signal ends a run of one
    process immediately, since there is nothing to save.

    Args:
        run_dir: run directory.
        steps: number of steps between two checkpoints; None: only at the end of every epoch.
        minutes: time between two checkpoints by the clock of rank 0; None: only at the end of every epoch.
        max_minutes: time by the clock of rank 0 after which the run saves a checkpoint and ends as after SIGTERM; None:
            no limit.

    Attributes:
        signals: signals received and not yet handled.
        saved_step: number of steps in the last checkpoint; None before the first.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        steps: int | None = None,
        minutes: float | None = None,
        max_minutes: float | None = None,
    ) -> None:
        self.run_dir = run_dir
        self.max_minutes = max_minutes
        self.steps = steps
        self.minutes = minutes
        self.signals = SignalNotes(self._react)
        self.saved_step: int | None = None
        # With several ranks, a rank that exits before the first step would leave the others waiting.
        self._ends_immediately = int(os.environ.get("WORLD_SIZE", "1")) == 1
        self._started_at = self._saved_at = time.monotonic()
        self._group: Any = None  # the default group of torch.distributed

    def __enter__(self) -> Checkpointing:
        self.signals.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self.signals.__exit__(*exception)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Prepare for the first step, and make the changes of a resumed run final.

        Raises:
            ConfigError: if the state of a callback cannot be saved.
        """
        # Lightning has replaced the handler of SIGTERM by its own, which ends the run without saving.
        self.signals.install()
        self._ends_immediately = False
        self._saved_at = time.monotonic()
        self.saved_step = trainer.global_step or None
        # Here too, so that the run does not train until its first checkpoint.
        check_states_are_plain({callback.state_key: callback.state_dict() for callback in trainer.callbacks})  # type: ignore[attr-defined]
        if trainer.is_global_zero:
            confirm_start(self.run_dir)
            provenance.save_diff(self.run_dir)
        if trainer.world_size > 1 and dist.get_backend() != "gloo":
            self._group = dist.new_group(backend="gloo")  # agreement between ranks must not wait for the GPUs

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        # The last step of an epoch is followed by validation, which a resumed run would skip: see `stop_if_signalled`.
        if not trainer.is_last_batch:
            number = self._agree(trainer)
            if number:
                self.save(trainer)
            self._end_if_requested(number)

    def save(self, trainer: pl.Trainer, *, best: bool = False) -> None:
        """Save a checkpoint by `save_checkpoint`; a collective operation."""
        save_checkpoint(trainer, self.run_dir, best=best)
        self._saved_at = time.monotonic()
        self.saved_step = trainer.global_step

    def stop_if_signalled(self, trainer: pl.Trainer) -> None:
        """End the run if any rank has received a stop signal, or the time is over before the last step.

        A collective operation, after a checkpoint.
        """
        number = self._agree(trainer)
        is_complete = trainer.should_stop or trainer.global_step >= trainer.datamodule.total_steps  # type: ignore[attr-defined]
        if number != END or not is_complete:
            self._end_if_requested(number)

    def _end_if_requested(self, number: int) -> None:
        if number == END:
            log.info("trainer.max_minutes (=%g) have passed", self.max_minutes)
            raise SystemExit(128 + signal.SIGTERM)
        if number > END:
            self.signals.hand_over(number - END)

    def _agree(self, trainer: pl.Trainer) -> int:
        """Return the greatest request of any rank: a signal plus `END`, `END`, `SAVE`, or 0."""
        number = max((END + each for each in self.signals.received), default=self._own_request(trainer))
        if trainer.world_size > 1:
            flag = torch.tensor(number)
            dist.all_reduce(flag, op=dist.ReduceOp.MAX, group=self._group)
            number = int(flag)
        return number

    def _own_request(self, trainer: pl.Trainer) -> int:
        elapsed_seconds = time.monotonic() - self._started_at
        if self.max_minutes is not None and trainer.is_global_zero and elapsed_seconds >= 60 * self.max_minutes:
            return END
        return SAVE if self._is_due(trainer) else 0

    def _is_due(self, trainer: pl.Trainer) -> bool:
        if self.steps and trainer.global_step % self.steps == 0:
            return True
        elapsed_seconds = time.monotonic() - self._saved_at
        return self.minutes is not None and trainer.is_global_zero and elapsed_seconds >= 60 * self.minutes

    def _react(self, number: int) -> None:
        if number == signal.SIGINT:
            signal.signal(number, _exit)
        if self._ends_immediately:
            self.signals.hand_over(number)


class EpochCheckpoint(Checkpoint):
    """Saves the checkpoint of an epoch, and then ends the run after a stop signal.

    Lightning calls subclasses of `Checkpoint` after all other callbacks, so that the checkpoint contains their state at
    the end of the epoch, such as that of early stopping.
    """

    def __init__(self, recording: Recording, checkpointing: Checkpointing) -> None:
        self.recording = recording
        self.checkpointing = checkpointing

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.checkpointing.save(trainer, best=self.recording.is_best)
        self.recording.conclude_epoch(trainer)
        self.checkpointing.stop_if_signalled(trainer)


def _exit(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)  # Lightning would turn a KeyboardInterrupt into status 1

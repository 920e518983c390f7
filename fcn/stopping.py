"""Stopping a run from outside so that it can go on later bit for bit."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist

from fcn import runs


class StopOnSignal(pl.Callback):
    """Ctrl-C, SIGTERM and SIGUSR1 end the run after the current step, with a checkpoint to go on from bit for bit.

    The handler only sets a flag. All processes agree on it after a step, save together and exit with 128 + signal. A
    second signal of the same kind ends the program at once.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self.received = 0
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopOnSignal:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.getsignal(number) for number in runs.STOP_SIGNALS}
        self._install()
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # Lightning has put its own handler for SIGTERM around ours, which would end the run without saving.
        self._install()

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        # After the last step of an epoch comes its validation, which a resumed run would miss: on_train_epoch_end.
        if not trainer.is_last_batch:
            self.stop_if_asked(trainer, save=True)

    def stop_if_asked(self, trainer: pl.Trainer, *, save: bool) -> None:
        """Leave the program if any process has received a signal; a collective."""
        number = self.received
        if trainer.world_size > 1:
            flag = torch.tensor(number, device=trainer.strategy.root_device)
            dist.all_reduce(flag, op=dist.ReduceOp.MAX)
            number = int(flag)
        if not number:
            return
        if save:
            trainer.save_checkpoint(self.checkpoint)
        raise SystemExit(128 + number)

    def _install(self) -> None:
        for number in self._previous:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)

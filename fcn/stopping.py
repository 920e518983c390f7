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
    """`runs.STOP_SIGNALS` end the run after the current step, with a checkpoint to go on from bit for bit.

    The handler only takes note. All processes agree on a signal after a step, save together and exit with 128 + signal;
    where somebody waited for the signal before us, as submitit does, it decides, see `runs.hand_over`. A second Ctrl-C
    ends the program at once; other signals may well come twice, from a cluster to all processes and from the agent.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self.received: set[int] = set()
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
        """Leave the program if any process has received a signal, unless who waited for it goes on; a collective."""
        number = max(self.received, default=0)
        if trainer.world_size > 1:
            flag = torch.tensor(number, device=trainer.strategy.root_device)
            dist.all_reduce(flag, op=dist.ReduceOp.MAX)
            number = int(flag)
        if not number:
            return
        if save:
            trainer.save_checkpoint(self.checkpoint)
        self.received.discard(number)
        runs.hand_over(number, self._previous.get(number))

    def _install(self) -> None:
        for number in self._previous:
            signal.signal(number, self._note)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received.add(number)
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)

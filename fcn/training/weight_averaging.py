"""Exponential moving average of the weights (EMA)."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from fcn.runs.checkpoints import AVERAGED, TRAINED
from fcn.training.task import SegmentationTask


class WeightAveraging(pl.Callback):
    """Averages the weights after every step; the network uses the average in evaluation mode.

    Lightning's own callback exchanges the weights before and after a validation, so that sample predictions would be
    those of other weights than the scores. It also averages the module whose checkpoints have other names than ours.

    Running means and variances of batch norm are averaged like weights; counts are copied.

    In checkpoints, `state_dict` is the average, so that all commands load it. `current_model_state` holds the weights
    that are trained.

    Args:
        decay: factor of the average at each step.
        warmup: whether step n, counted from 1, uses the smaller of `decay` and (1 + n) / (10 + n), as TensorFlow does.
    """

    def __init__(self, decay: float, *, warmup: bool) -> None:
        self.decay = decay
        self.warmup = warmup
        self._num_updates = 0
        self._average: nn.Module | None = None
        self._weights: list[tuple[Tensor, Tensor]] = []  # averages and trained tensors, also those of batch norm
        self._counts: list[tuple[Tensor, Tensor]] = []
        self._restored: dict[str, Tensor] | None = None

    def decay_at(self, step: int) -> float:
        """Return the factor of the average in update `step`, counted from 1."""
        return min(self.decay, (1 + step) / (10 + step)) if self.warmup else self.decay

    def state_dict(self) -> dict[str, Any]:
        return {"num_updates": self._num_updates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._num_updates = state_dict["num_updates"]

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        self._restored = checkpoint.get(AVERAGED)  # None if the average starts here, see `allow`

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Copy the network, which is on its device and has its algorithms of upsampling now."""
        network = _task(pl_module).network
        self._average = copy.deepcopy(network.model).requires_grad_(False).eval()
        if self._restored is not None:
            self._average.load_state_dict({_in_model(name): value for name, value in self._restored.items()})
            self._restored = None
        pairs = list(zip(_tensors(self._average), _tensors(network.model), strict=True))
        self._weights = [pair for pair in pairs if pair[0].is_floating_point()]
        self._counts = [pair for pair in pairs if not pair[0].is_floating_point()]
        network.use_in_evaluation(self._average)

    # Not by torch's AveragedModel, whose counter of updates would make every step wait for a GPU.
    @torch.no_grad()
    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        self._num_updates += 1
        is_first = self._num_updates == 1
        for average, current in (*self._counts, *(self._weights if is_first else ())):
            average.copy_(current)
        if not is_first:
            update = get_ema_multi_avg_fn(self.decay_at(self._num_updates))  # type: ignore[no-untyped-call]
            update(*map(list, zip(*self._weights, strict=True)), None)

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        assert self._average is not None
        checkpoint[TRAINED] = checkpoint["state_dict"]  # see `SegmentationTask.on_load_checkpoint`
        checkpoint["state_dict"] = self._average.state_dict(prefix="model.")


def _tensors(model: nn.Module) -> Iterator[Tensor]:
    return itertools.chain(model.parameters(), model.buffers())


def _in_model(name: str) -> str:
    return name.removeprefix("model.")


def _task(module: pl.LightningModule) -> SegmentationTask:
    assert isinstance(module, SegmentationTask)
    return module

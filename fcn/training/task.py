"""SegmentationTask: the network with its loss, metrics and optimiser, as a LightningModule."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NoReturn

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.core.optimizer import LightningOptimizer
from pytorch_lightning.strategies import ParallelStrategy
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from fcn import config as configuration
from fcn.config import Config, ConfigError
from fcn.config.choices import Protocol
from fcn.config.older_versions import upgrade
from fcn.config.resumable_keys import changed_keys, check_resumable
from fcn.models.network import SegmentationNetwork, predicted_classes
from fcn.runs.checkpoints import AVERAGED, TRAINED, not_finite
from fcn.training.class_counts import count_training_pixels
from fcn.training.compute import compile_network, prepare_network
from fcn.training.divergence import TrainingDiverged
from fcn.training.epoch_metrics import EpochMetrics
from fcn.training.fastest_settings import choose_fastest_settings, use_saved_settings
from fcn.training.losses.base import Loss
from fcn.training.losses.pixels import void_as_background
from fcn.training.optim import apply_settings, build_optimizer, unscale_gradients
from fcn.training.schedules import build_schedule
from fcn.training.step_parts import StepParts

log = logging.getLogger(__name__)


class SegmentationTask(pl.LightningModule):
    """Trains and validates the configured network.

    Optimisation is manual in Lightning's sense: with `trainer.accumulate`, a step has several backward passes but one
    batch, which must be known as a whole to normalise the loss.

    Attributes:
        network: the model with its normalisation and memory layout.
        loss: the loss that training minimises; set when training starts.
        metrics: counts of an epoch.
        parts: number of parts of a step.
        last_loss: loss of the last step at which it was read, over all processes: every step on a CPU, every
            `trainer.log_every` steps on a GPU.
    """

    def __init__(self, config: Config, *, pretrained: bool = True) -> None:
        """Build the network; see `SegmentationNetwork` for the arguments."""
        super().__init__()
        self.automatic_optimization = False
        self.config = config
        self.network = SegmentationNetwork(config, pretrained=pretrained)
        self._is_d2l = config.data.protocol is Protocol.d2l
        self.metrics = EpochMetrics(config.data.classes, is_d2l=self._is_d2l)
        self.parts = StepParts(config)
        self.loss: Loss
        self._auxiliary_weight = getattr(config.model, "auxiliary_weight", 0.0)
        self._loss_state: dict[str, Any] = {}
        self.last_loss = float("nan")
        self._last_sums = (torch.zeros(()), torch.zeros(()))  # numerator and count of the last step of this process

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits

    # A checkpoint holds the network alone: its weights are named model.*, so that inference needs no task.
    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return self.network.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        return self.network.load_state_dict(state_dict, strict=strict, assign=assign)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer = self._build_optimizer()
        # `estimated_stepping_batches` would create a data loader only to count its batches.
        total_steps = self.trainer.datamodule.total_steps  # type: ignore[attr-defined]
        schedule = build_schedule(optimizer, self.config.schedule, total_steps=total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def setup(self, stage: str) -> None:
        choose_fastest_settings(self)

    def on_fit_start(self) -> None:
        self.loss = replace(self.config.loss, **self._loss_state).build(lambda: count_training_pixels(self.trainer))
        self._validation_loss = self.loss.for_validation()
        self._reads_every_loss = self.device.type == "cpu"
        num_parts = self.trainer.world_size * self.parts.number
        with self.trainer.strategy.precision_plugin.forward_context():
            prepare_network(self.network, parts=num_parts)
        if self.config.compile:
            compile_network(self.network.model)

    def on_train_start(self) -> None:
        """Set learning rate, decay and momentum as configured; a checkpoint restores its saved values."""
        (optimizer,), schedule = self.trainer.optimizers, self.lr_schedulers()
        assert isinstance(schedule, LambdaLR)
        apply_settings(self._build_optimizer(), to=optimizer, schedule=schedule)

    def learning_rate(self) -> float:
        """Return the learning rate of the next step, before the factors of head, backbone and biases."""
        schedule = self.lr_schedulers()
        assert isinstance(schedule, LambdaLR)
        return float(self.config.lr * schedule.lr_lambdas[0](schedule.last_epoch))

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # Makes dropout a function of (seed, step, process), independent of where the run was resumed.
        sequence = np.random.SeedSequence([self.config.seed, self.global_step, self.global_rank])
        torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> 1))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Take one optimiser step on the share of this process, in parts of equal size."""
        mask = batch["mask"]
        target = void_as_background(mask) if self._is_d2l else mask
        count = self.loss.count(target)
        divisor = self._sum_over_processes(count.clone()) if self.loss.averages else count
        optimizer, schedule = self.optimizers(), self.lr_schedulers()
        assert isinstance(optimizer, LightningOptimizer)
        assert isinstance(schedule, LambdaLR)
        optimizer.zero_grad()
        share = batch["image"], mask, target
        self.parts.find(lambda: self._add_gradients(*share, divisor=divisor, is_trial=True), self)
        sums = self._add_gradients(*share, divisor=divisor)
        self._last_sums = sums, count
        if self._reads_every_loss or (self.global_step + 1) % self.config.trainer.log_every == 0:
            self._read_loss()
        unscale_gradients(optimizer.optimizer, self.trainer.precision_plugin)
        optimizer.step()
        schedule.step()

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        # Callbacks are called before, so that the recorded norm is the one before clipping.
        if (limit := self.config.optim.clip_norm) is not None:
            nn.utils.clip_grad_norm_(self.parameters(), limit)

    def _add_gradients(self, *share: Tensor, divisor: Tensor, is_trial: bool = False) -> Tensor:
        """Add the gradients of a step, part by part, and return the numerator of its loss.

        `share` is images, mask and target of this process, `divisor` the count of the loss in the whole step. A trial
        takes the memory of a step, without communication between processes and hooks of callbacks.
        """
        sums = torch.zeros((), device=self.device)
        for number, part in enumerate(self.parts.split(*share), 1):
            numerator, minimized = self._measure(*part)
            sums = sums + numerator.detach()
            # DDP averages gradients over processes; the step needs their sum, over the global count.
            loss = self.loss.step_loss(minimized, divisor) * self.trainer.world_size
            self._backward(loss, reduce=number == self.parts.number and not is_trial, is_trial=is_trial)
        return sums

    def _measure(self, images: Tensor, mask: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """Update the training metrics with a part of a batch.

        Returns:
            The numerator of its loss, and the numerator to minimise, which includes the loss of the auxiliary head.
        """
        logits, *auxiliary = self.network.all_logits(images)
        numerator = self.loss.numerator(logits, target)
        loss = numerator.detach(), self.loss.count(target)
        prediction = predicted_classes(logits.detach())
        self.metrics["train/"].update(prediction, mask, loss=loss)
        if self._is_d2l:
            self.metrics["d2l/train_"].update(prediction, target, loss=loss)
        minimized = numerator
        for other in auxiliary:
            minimized = minimized + self._auxiliary_weight * self.loss.numerator(other, target)
        return numerator, minimized

    def _backward(self, loss: Tensor, *, reduce: bool, is_trial: bool) -> None:
        """Add the gradient of `loss`; if `reduce`, also average the accumulated gradients over the processes."""
        strategy = self.trainer.strategy
        is_local = not reduce and isinstance(strategy, ParallelStrategy)
        reduction = strategy.block_backward_sync() if is_local else contextlib.nullcontext()  # type: ignore[attr-defined]
        # Lightning calls training_step under autocast, which backward passes must not run under.
        with reduction, torch.autocast(self.device.type, enabled=False):
            torch.autograd.backward(loss) if is_trial else self.manual_backward(loss)

    def on_validation_start(self) -> None:
        # cuDNN would benchmark its algorithms for every image size.
        self._cudnn_benchmark, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, False
        # Running statistics of batch norm differ between processes; those of process 0 are saved.
        if self.trainer.world_size > 1:
            for statistics in self.network.evaluated_model.buffers():
                dist.broadcast(statistics, src=0)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        if not len(batch["image"]):
            return  # this process has no image
        is_d2l = dataloader_idx == 1
        target = void_as_background(batch["mask"]) if is_d2l else batch["mask"]
        logits = self(batch["image"])
        loss = self._validation_loss.numerator(logits, target), self._validation_loss.count(target)
        self.metrics["d2l/test_" if is_d2l else "val/"].update(predicted_classes(logits), target, loss=loss)

    def on_validation_epoch_end(self) -> None:
        # Here, so that callbacks can monitor the scores in `on_validation_end`.
        self.log_scalars(self.metrics.validation_scores())

    def on_validation_end(self) -> None:
        torch.backends.cudnn.benchmark = self._cudnn_benchmark

    def epoch_scores(self) -> dict[str, float]:
        """Return the scores of everything measured since the last call, as `EpochMetrics.epoch_scores`."""
        scores = self.metrics.epoch_scores()
        self._check_finite(scores.get("train/loss", 0.0))
        return scores

    def log_scalars(self, values: Mapping[str, float]) -> None:
        """Make scalars available to callbacks as `trainer.callback_metrics`; all processes must give equal values.

        They do not go to Lightning's loggers, which would get them only after the checkpoint of the epoch.
        """
        # In float64, as in summary.json. The maximum of equal values is exact, unlike their mean.
        tensors = {name: torch.tensor(value, dtype=torch.float64, device=self.device) for name, value in values.items()}
        self.log_dict(tensors, logger=False, batch_size=1, reduce_fx="max", sync_dist=True)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["config"] = configuration.to_container(self.config)
        checkpoint["components"] = configuration.component_origins(self.config)
        checkpoint["loss"] = self.loss.state()
        checkpoint["accumulate"] = self.parts.number
        checkpoint["normalization"] = self.network.normalization
        # In the middle of an epoch, the counts of every process so far belong to the checkpoint.
        own = self.metrics.state()
        states: list[Any] = [own]
        if self.trainer.world_size > 1:
            states = [None] * self.trainer.world_size
            dist.all_gather_object(states, own)
        for state in states:
            self._check_finite(float(state["train/"]["loss_sum"]))
        if name := not_finite(self.network.model.state_dict()):  # the loss was computed before the last step
            self._diverged(f"{name} became NaN or infinite")
        checkpoint["metrics"] = states

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        loop = checkpoint["loops"]["fit_loop"]
        if (
            loop["epoch_loop.manual_optimization.optim_step_progress"]["total"]["completed"]
            != checkpoint["global_step"]
        ):
            # Runs from before manual optimisation counted their steps in another loop of Lightning.
            raise ConfigError(
                "this run was started by an older version; resume it with that version or start a new run"
            )
        if TRAINED in checkpoint:
            checkpoint[AVERAGED], checkpoint["state_dict"] = checkpoint["state_dict"], checkpoint[TRAINED]
        use_saved_settings(self, checkpoint["config"])
        self._check_changes(checkpoint["config"], num_processes=len(checkpoint["metrics"]))
        self.parts.resume(checkpoint, processes=self.trainer.world_size)
        if checkpoint["config"].get("loss") == configuration.to_container(self.config)["loss"]:
            self._loss_state = checkpoint.get("loss", {})
        self.network.set_normalization(checkpoint.get("normalization", {}))
        # If the number of processes is unchanged, each restores its own counts, so that sums are rounded identically.
        self.metrics.load_states(checkpoint["metrics"][self.trainer.global_rank :: self.trainer.world_size])

    def _check_changes(self, before: dict[str, Any], *, num_processes: int) -> None:
        """Check and log what has changed since the checkpoint, including manual changes of config.yaml."""
        # Keys that an older version did not save have their defaults.
        complete = (configuration.validate(upgrade(before), Config), self.config)
        changes = changed_keys(*(configuration.flatten(configuration.to_container(each)) for each in complete))
        if num_processes != self.trainer.world_size:  # independent of trainer.devices
            changes["trainer.devices"] = [num_processes, self.trainer.world_size]
        check_resumable(changes, allowed=self.config.allow, run="this run")
        for key, (old, new) in changes.items():
            log.info("changed  %s is %s instead of %s from here on", key, new, old)

    def _build_optimizer(self) -> Optimizer:
        model = self.network.model
        head = list(model.head_parameters())
        config = self.config
        return build_optimizer(model, head=head, config=config.optim, lr=config.lr, backbone=config.backbone)

    def _sum_over_processes(self, values: Tensor) -> Tensor:
        if self.trainer.world_size > 1:
            dist.all_reduce(values)
        return values

    def _read_loss(self) -> None:
        """Set `last_loss` and check it; waits for the device. The sum of the epoch also reveals an earlier NaN."""
        sums = torch.stack([*(value.double() for value in self._last_sums), self.metrics["train/"].loss_sum])
        numerator, count, epoch_sum = self._sum_over_processes(sums).tolist()
        self.last_loss = numerator / count if count else 0.0
        self._check_finite(epoch_sum, step=self.global_step + 1)

    def _check_finite(self, loss: float, *, step: int | None = None) -> None:
        """Raise if a loss over all processes is not finite; all processes then stop together."""
        if not np.isfinite(loss):
            self._diverged(f"train/loss became {loss}", step=step)

    def _diverged(self, problem: str, *, step: int | None = None) -> NoReturn:
        """Raise for a step in progress, counted from 1 as in the log, or for the last step made."""
        step = self.global_step if step is None else step
        data: Any = self.trainer.datamodule  # type: ignore[attr-defined]
        epoch = (step - 1) // data.steps_per_epoch + 1
        warmup = self.config.schedule.longer_warmup(data.total_steps)
        raise TrainingDiverged(
            f"{problem} at step {step} (epoch {epoch}, lr {self.learning_rate():.3g}); "
            f"try lr={self.config.lr / 10:g}{f', or a longer warm-up such as {warmup}' if warmup else ''}"
        )

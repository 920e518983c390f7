"""SegmentationTask: the FCN with its loss, its metrics and its optimiser, as a LightningModule."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, NoReturn

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from fcn import config as configuration
from fcn.config import IGNORE_INDEX, Config, Protocol, Reduction
from fcn.errors import UserError
from fcn.evaluation.metrics import SegmentationMetrics, predicted_classes, segmentation_scores
from fcn.evaluation.scores import class_counts
from fcn.models.network import SegmentationNetwork
from fcn.runs.checkpoints import not_finite
from fcn.training.compute import choose_upsampling, compile_network
from fcn.training.losses import counted, cross_entropy, step_loss
from fcn.training.optim import build_optimizer, build_schedule

log = logging.getLogger(__name__)


class TrainingDiverged(UserError):
    """The loss is no number any more.

    On a CPU it is raised before the step is taken. On a GPU the loss is looked at every `trainer.log_every` steps,
    since that waits for the device; no checkpoint is saved without a look, at the weights too.
    """


class SegmentationTask(pl.LightningModule):
    """Trains and validates the configured model.

    `forward` takes images [N, 3, H, W] of any size, uint8 or float in [0, 1] as torchvision has them, and gives
    float logits [N, C, H, W].

    Attributes:
        network: the network, with its normalisation and memory layout.
        metrics: by the prefix of their names, `train/` and `val/`, counted without void over an epoch; under
            `data.protocol=d2l` also `d2l/train_` and `d2l/test_`, where void is background.
        last_loss: reported loss of the last step at which it was looked at, over all processes: on a GPU those where
            the step curves have a point, on a CPU all.
        confusion: int64 [C, C] of the last validation, rows are the target.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        num_classes = len(config.data.classes)
        self.network = SegmentationNetwork(config)
        chapter = config.data.protocol is Protocol.d2l
        prefixes = ["train/", "val/", *(["d2l/train_", "d2l/test_"] if chapter else [])]
        self.metrics = nn.ModuleDict({prefix: SegmentationMetrics(num_classes) for prefix in prefixes})
        self.last_loss = float("nan")
        self._last_sums = (torch.zeros(()), torch.zeros(()))  # numerator and count of the last step, of this process
        self.confusion = torch.zeros(num_classes, num_classes, dtype=torch.int64)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits

    # A checkpoint holds the network alone: its weights are named model.*, so that inference needs no task.
    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return self.network.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        return self.network.load_state_dict(state_dict, strict=strict, assign=assign)

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        config, optimizer = self.config, self._optimizer()
        # `estimated_stepping_batches` would load the data; the order of an epoch fixes the number anyway.
        total_steps = config.epochs * self.trainer.datamodule.steps_per_epoch  # type: ignore[attr-defined]
        schedule = build_schedule(optimizer, config.schedule, total_steps=total_steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_fit_start(self) -> None:
        self._waiting_is_free = self.device.type == "cpu"
        share = self.config.batch_size // self.trainer.world_size // self.config.trainer.accumulate
        crops = torch.zeros(share, 3, *self.config.data.crop_size, device=self.device)
        with self.trainer.strategy.precision_plugin.forward_context():
            choose_upsampling(self.network.model, crops.contiguous(memory_format=self.network.layout), self.config)
        if self.config.compile:
            compile_network(self.network.model)

    def on_train_start(self) -> None:
        """Learning rate, decay and momentum as configured: a checkpoint restores those of its time."""
        (optimizer,), schedule = self.trainer.optimizers, self.lr_schedulers()
        assert isinstance(schedule, LambdaLR)
        for number, (group, anew) in enumerate(
            zip(optimizer.param_groups, self._optimizer().param_groups, strict=True)
        ):
            base, factor = anew["lr"], schedule.lr_lambdas[number](schedule.last_epoch)
            schedule.base_lrs[number] = base
            settings = {key: value for key, value in anew.items() if key not in ("params", "lr")}
            group.update(settings, initial_lr=base, lr=base * factor)

    def on_validation_start(self) -> None:
        # cuDNN would try all algorithms for every size of image.
        self._tuned, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, False
        # Running statistics of batch norm differ between processes; process 0's are those that are saved.
        if self.trainer.world_size > 1:
            for statistics in self.network.model.buffers():
                dist.broadcast(statistics, src=0)

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        # Dropout is then a function of (seed, step, process): the same after any resume.
        sequence = np.random.SeedSequence([self.config.seed, self.global_step, self.global_rank])
        torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> 1))

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        """Loss of the share of this process, or, with `trainer.accumulate`, of its last part.

        The gradients of the parts before it are in the parameters then: DDP takes no notice of a backward pass within
        its forward pass, and reduces the sum after the last.
        """
        images, mask = batch["image"], batch["mask"]
        chapter = self.config.data.protocol is Protocol.d2l
        target = void_as_background(mask) if chapter else mask
        reduction, parts = self.config.loss.reduction, self.config.trainer.accumulate
        count = counted(target, reduction)
        # The two sums are minimised as they are; only the mean must know of all pixels before it is differentiated.
        divisor = self._over_processes(count.clone()) if reduction is Reduction.pixel_mean else count
        self.trainer.optimizers[0].zero_grad()
        sums = torch.zeros((), device=self.device)
        pieces = zip(*(tensor.tensor_split(parts) for tensor in (images, mask, target)), strict=True)
        for number, (image, one_mask, one_target) in enumerate(pieces, 1):
            logits = self(image)
            numerator, part_count = cross_entropy(logits, one_target, reduction)
            found = numerator.detach(), part_count
            prediction = predicted_classes(logits.detach())
            self._metrics("train/").update(prediction, one_mask, loss=found)
            if chapter:
                self._metrics("d2l/train_").update(prediction, one_target, loss=found)
            sums = sums + found[0]
            # DDP averages gradients over processes; the step wants their sum, over the global count.
            loss = step_loss(numerator, divisor, reduction) * self.trainer.world_size
            if number < parts:
                self._differentiate(loss)
        self._last_sums = sums, count
        if self._waiting_is_free or (self.global_step + 1) % self.config.trainer.log_every == 0:
            self._look_at_loss()
        return loss

    def _differentiate(self, loss: Tensor) -> None:
        """Backward pass of a part of a step, scaled as Lightning scales that of the last."""
        scaled: Any = self.trainer.strategy.precision_plugin.pre_backward(loss, self)
        with torch.autocast(self.device.type, enabled=False):
            scaled.backward()

    def optimizer_zero_grad(self, *args: Any) -> None:
        """Nothing: Lightning would call it between the forward pass and the backward pass of the last part."""

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        chapter = dataloader_idx == 1
        target = void_as_background(batch["mask"]) if chapter else batch["mask"]
        logits = self(batch["image"])
        loss = cross_entropy(logits, target, Reduction.pixel_mean)
        self._metrics("d2l/test_" if chapter else "val/").update(predicted_classes(logits), target, loss=loss)

    def on_validation_end(self) -> None:
        torch.backends.cudnn.benchmark = self._tuned

    def epoch_scores(self) -> dict[str, float]:
        """Scores of everything measured since the last call, over all processes; then counts from zero again.

        A collective: all processes call it together. Names are those of summary.json: `train/loss`,
        `val/mean_iou`, `val/iou/<class>`, and the chapter's under `d2l/`. Sets `confusion`.
        """
        found: dict[str, float] = {}
        for prefix in self.metrics:
            metric = self._metrics(prefix)
            with metric.sync_context():
                confusion, loss_sum = metric.confusion.cpu(), float(metric.loss_sum)
                loss = float(metric.loss_sum / metric.loss_divisor)
            metric.reset()
            if prefix == "train/":
                self._check_finite(loss_sum)
            if prefix == "val/" and confusion.any():
                self.confusion = confusion
            if confusion.any():
                found.update(_named(prefix, confusion, loss, self.config.data.classes))
        return found

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["config"] = configuration.to_container(self.config)
        # A checkpoint in the middle of an epoch must not lose what each process has counted so far.
        own = {name: self._metrics(name).state() for name in self.metrics}
        everyone: list[Any] = [own]
        if self.trainer.world_size > 1:
            everyone = [None] * self.trainer.world_size
            dist.all_gather_object(everyone, own)
        for states in everyone:
            self._check_finite(float(states["train/"]["loss_sum"]))
        if broken := not_finite(self.network.model.state_dict()):  # the loss of the step is of the weights before it
            self._diverged(f"{broken} became NaN or infinite")
        checkpoint["metrics"] = everyone

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._check_changes(checkpoint["config"], num_processes=len(checkpoint["metrics"]))
        # With as many processes as before each takes back its own counts, so that sums are rounded the same.
        mine = checkpoint["metrics"][self.trainer.global_rank :: self.trainer.world_size]
        for name in self.metrics if mine else ():
            states = [states[name] for states in mine]
            self._metrics(name).load_state({key: sum(state[key] for state in states) for key in states[0]})

    def _check_changes(self, before: dict[str, Any], *, num_processes: int) -> None:
        """Whoever edits config.yaml by hand is told the same as who types."""
        flat = (configuration.flatten(each) for each in (before, configuration.to_container(self.config)))
        found = configuration.changed_keys(*flat)
        if num_processes != self.trainer.world_size:  # whatever trainer.devices says
            found["trainer.devices"] = [num_processes, self.trainer.world_size]
        configuration.check_resumable(found, allowed=self.config.allow, run="this run")
        for key, (old, new) in found.items():
            log.info("changed  %s is %s instead of %s from here on", key, new, old)

    def _metrics(self, name: str) -> SegmentationMetrics:
        metric = self.metrics[name]
        assert isinstance(metric, SegmentationMetrics)
        return metric

    def _optimizer(self) -> Optimizer:
        head = list(self.network.model.head_parameters())
        return build_optimizer(self.network.model, head=head, config=self.config.optim, lr=self.config.lr)

    def _over_processes(self, sums: Tensor) -> Tensor:
        if self.trainer.world_size > 1:
            dist.all_reduce(sums)
        return sums

    def _look_at_loss(self) -> None:
        """Set `last_loss`; waits for the device. The sum of the epoch shows also what an earlier step has lost."""
        sums = torch.stack([*(value.double() for value in self._last_sums), self._metrics("train/").loss_sum])
        numerator, count, epoch_sum = self._over_processes(sums).tolist()
        self.last_loss = numerator / max(count, 1)
        self._check_finite(epoch_sum)

    def _check_finite(self, loss: float) -> None:
        """Check a loss over all processes, so that all of them stop together."""
        if not np.isfinite(loss):
            self._diverged(f"train/loss became {loss}")

    def _diverged(self, what: str) -> NoReturn:
        lr = self.trainer.optimizers[0].param_groups[0]["lr"]
        raise TrainingDiverged(
            f"{what} at step {self.global_step} (epoch {self.current_epoch}, lr {lr:.3g}); "
            f"try lr={self.config.lr / 10:g}, or a warm-up such as schedule.warmup_steps=100"
        )


def void_as_background(mask: Tensor) -> Tensor:
    """The chapter's reading of VOC masks, which knows no void: its loader maps every unknown colour to class 0."""
    return torch.where(mask == IGNORE_INDEX, torch.zeros_like(mask), mask)


def _named(prefix: str, confusion: Tensor, loss: float, classes: list[str]) -> dict[str, float]:
    values = segmentation_scores(confusion)
    if prefix.startswith("d2l/"):
        return {f"{prefix}loss": loss, f"{prefix}acc": values["pixel_accuracy"]}
    if prefix == "train/":
        return {"train/loss": loss, "train/pixel_accuracy": values["pixel_accuracy"]}
    ious = zip(classes, class_counts(confusion.numpy()).iou().tolist(), strict=True)
    per_class = {f"val/iou/{label}": iou for label, iou in ious}
    return {"val/loss": loss, **{f"val/{key}": value for key, value in values.items()}, **per_class}

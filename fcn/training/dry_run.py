"""Dry run: two training steps of one of N processes without the others, and what such a run would do and need."""

from __future__ import annotations

import contextlib
import gc
import logging
import math
import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.testing._internal.distributed.fake_pg import FakeStore  # there is no public name (torch 2.9 to 2.15)

from fcn.config import Config, ConfigError
from fcn.config.choices import Accelerator
from fcn.data.module import VOCDataModule
from fcn.errors import is_out_of_memory
from fcn.models.device import device_name, has_gpu, keep_freed_memory
from fcn.training.callback_options import EmaConfig
from fcn.training.console import logging_to
from fcn.training.memory import main_memory
from fcn.training.monitors import peak_memory_mib
from fcn.training.task import SegmentationTask
from fcn.training.train import build_task
from fcn.training.trainer import build_trainer

log = logging.getLogger(__name__)

STEPS = 2
"""Steps of a dry run, of which the last is measured: DDP divides the gradients into other buckets after the first."""


def dry_run(config: Config, *, rank: int = 0) -> dict[str, str]:
    """Make `STEPS` training steps of one of `trainer.dry_run_processes` processes, and print a table; save nothing.

    Images, checks and messages are those of a run of so many processes. The gradients are those of one process.

    Args:
        config: configuration of the run.
        rank: the process.

    Returns:
        The cells of the table by the names of its rows.

    Raises:
        ConfigError, DataError, WeightsError, TrainingDiverged: as `fcn.training.train.train`.
    """
    if config.epochs == 0:
        processes = config.trainer.dry_run_processes
        raise ConfigError(f"epochs (=0) must be at least 1 with trainer.dry_run_processes (={processes}); use epochs=1")
    with logging_to(Path(os.devnull)):
        VOCDataModule(config).prepare_data()
        step = measure_step(config, rank=rank)
        log.info("%s: step %d of rank %d on %s", _title(config), STEPS, rank, step.device)
        for name, value in step.table.items():
            log.info("%-18s %s", name, value)
    return step.table


def try_batch_sizes(config: Config) -> list[tuple[int, MeasuredStep]]:
    """Make a dry run with each of `trainer.dry_run_batch_sizes`, in ascending order, and print a line for each.

    The first batch size whose step does not fit into the memory is the last. On a CPU, where the system would end the
    process, it is not tried if its memory, extrapolated from the two sizes before, would exceed that of the machine.

    Returns:
        Batch sizes that fit, with their measurements.

    Raises:
        ConfigError, DataError, WeightsError, TrainingDiverged: as `fcn.training.train.train`.
    """
    processes = config.trainer.dry_run_processes
    assert processes is not None
    configs = [replace(config, batch_size=size) for size in sorted(set(config.trainer.dry_run_batch_sizes))]
    fitting: list[tuple[int, MeasuredStep]] = []
    with logging_to(Path(os.devnull)):
        images = VOCDataModule(configs[-1])
        images.prepare_data()
        images.setup("fit")  # raises the errors of the largest before the first measurement
        for each in configs:
            memory = math.inf if has_gpu(config.trainer.accelerator) else main_memory() / 2**20
            if (expected := _expected_memory(fitting, each.batch_size)) > memory:
                log.info("%5d images  not tried: about %.0f of %.0f MiB per process", each.batch_size, expected, memory)
                break
            try:
                step = measure_step(each)
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                log.info("%5d images  out of memory", each.batch_size)
                break
            if not fitting:
                log.info("%s: step %d of rank 0 on %s", _title(config), STEPS, step.device)
            fitting.append((each.batch_size, step))
            rate = each.batch_size / processes / step.seconds
            log.info(
                "%5d images  peak memory %.0f MiB and %.1f images/s per process", each.batch_size, step.memory, rate
            )
        largest = f"batch_size={fitting[-1][0]}" if fitting else "none"
        log.info("largest of these that fits: %s", largest)
    return fitting


def _title(config: Config) -> str:
    processes = config.trainer.dry_run_processes
    return f"dry run of {processes} process{'es' * (processes != 1)}"


def _expected_memory(fitting: list[tuple[int, MeasuredStep]], size: int) -> float:
    """Return the peak memory in MiB on a line through the last two measurements; 0 if there are fewer."""
    if len(fitting) < 2:
        return 0.0
    (first, one), (second, other) = fitting[-2:]
    return other.memory + (other.memory - one.memory) * (size - second) / (second - first)


def measure_step(config: Config, *, rank: int = 0) -> MeasuredStep:
    """Make the steps of a dry run on prepared data, and return the measurements of the last one; see `dry_run`."""
    processes = config.trainer.dry_run_processes
    assert processes is not None
    gc.collect()  # networks of other batch sizes
    if has_gpu(Accelerator.auto):
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with one_of(processes, rank=rank):
        pl.seed_everything(config.seed, verbose=False)
        step = MeasuredStep(config)
        averages = [
            option.build(config, Path()) for option in config.callbacks.values() if isinstance(option, EmaConfig)
        ]
        executed = _without_gpu_keys(config)
        # Last, because the average copies the network, which would include the hooks.
        trainer = build_trainer(executed, callbacks=[*averages, step], max_steps=STEPS)
        keep_freed_memory(trainer.strategy.root_device)
        trainer.fit(build_task(executed), datamodule=PreparedData(executed))
        if trainer.global_step < STEPS:
            raise ConfigError(
                f"a dry run must have {STEPS} steps, but a run with batch_size (={config.batch_size}) has "
                f"{trainer.global_step}; use steps={STEPS}"
            )
        step.finish(trainer)
    return step


@contextlib.contextmanager
def one_of(processes: int, *, rank: int) -> Iterator[None]:
    """Make this process the given rank of a group in which the other processes do not exist.

    The group is torch's fake one, for which a collective operation ends at once: a sum or a broadcast leaves the tensor
    of this process unchanged, and what is gathered are copies of it.
    """
    names = {"RANK": rank, "WORLD_SIZE": processes, "LOCAL_RANK": 0, "LOCAL_WORLD_SIZE": 1, "GROUP_RANK": rank}
    before = {name: os.environ.get(name) for name in names}
    os.environ.update({name: str(value) for name, value in names.items()})
    # Rank 0 in the group, because objects that rank 0 broadcasts could not be received.
    dist.init_process_group("fake", rank=0, world_size=processes, store=FakeStore())
    try:
        yield  # Lightning uses a group that exists already
    finally:
        dist.destroy_process_group()
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _without_gpu_keys(config: Config) -> Config:
    """Return a configuration without synchronised batch norm if this machine, unlike that of the run, has no GPU."""
    if config.trainer.accelerator is not Accelerator.auto or has_gpu(Accelerator.auto):
        return config
    return replace(config, trainer=replace(config.trainer, sync_batchnorm=False))


class PreparedData(VOCDataModule):
    """Data module whose data are prepared: Lightning would let all processes wait for it, in a new group of gloo."""

    prepare_data = pl.LightningDataModule.prepare_data


class MeasuredStep(pl.Callback):
    """Measures every step, and keeps the measurements of the last one.

    Attributes:
        seconds: duration of the step.
        memory: peak memory of the process in MiB, of a GPU or of the main memory.
        device: name of the device.
        table: cells of the printed table by the names of its rows.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self.learning_rate = 0.0  # of the first step
        self.seconds = self.memory = 0.0
        self.device = ""
        self.table: dict[str, str] = {}
        self.crops = self.logits = ""  # dtype and shape
        self.bucket_bytes: list[int] = []
        self.norm_layers = self.gathered_bytes = self.reduced_bytes = 0  # of synchronised batch norm
        self._started = 0.0

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, SegmentationTask)
        self.learning_rate = pl_module.learning_rate()
        model: Any = trainer.strategy.model
        if isinstance(model, DistributedDataParallel):
            model.register_comm_hook(None, lambda state, bucket: self._reduce(bucket))
        network = pl_module.network.model
        network.register_forward_hook(self._see_logits)
        for module in network.modules() if self.config.trainer.sync_batchnorm else ():
            if isinstance(module, _BatchNorm) and module.training:
                module.register_forward_pre_hook(self._see_batch_norm)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self.crops = _describe(batch["image"])
        self.bucket_bytes = []
        self.norm_layers = self.gathered_bytes = self.reduced_bytes = 0
        self._started = self._now(pl_module.device)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        self.seconds = self._now(pl_module.device) - self._started

    def _now(self, device: torch.device) -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    def _reduce(self, bucket: Any) -> torch.futures.Future[Tensor]:
        """Average a bucket, as DDP does by default: its own code expects a result that a fake group does not give."""
        gradients = bucket.buffer()
        self.bucket_bytes.append(gradients.nbytes)
        dist.all_reduce(gradients.div_(dist.get_world_size()))
        future: torch.futures.Future[Tensor] = torch.futures.Future()
        future.set_result(gradients)
        return future

    def _see_logits(self, module: nn.Module, arguments: tuple[Tensor, ...], output: Any) -> None:
        self.logits = _describe(output[0] if isinstance(output, tuple) else output)

    def _see_batch_norm(self, module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        """Add what torch's SyncBatchNorm communicates in float32: mean, deviation and count; two sums if backward."""
        assert isinstance(module, _BatchNorm)
        self.norm_layers += 1
        self.gathered_bytes += 4 * (2 * module.num_features + 1)
        is_recomputed = torch._C._current_graph_task_id() != -1  # by activation checkpointing, in the backward pass
        self.reduced_bytes += 4 * 2 * module.num_features * (arguments[0].requires_grad and not is_recomputed)

    def finish(self, trainer: pl.Trainer) -> None:
        """Write the table, after the last step."""
        self.device = device_name(trainer.strategy.root_device)
        self.memory = peak_memory_mib(trainer.strategy.root_device)
        config, processes = self.config, trainer.world_size
        data: VOCDataModule = trainer.datamodule  # type: ignore[attr-defined]
        share = config.batch_size // processes
        validated = [sum(map(len, data.val_batches(rank))) for rank in range(processes)]
        parameters = list(trainer.lightning_module.parameters())
        trained = sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
        gradients = sum(self.bucket_bytes)
        states = trainer.optimizers[0].state.values()
        state_bytes = sum(value.nbytes for state in states for value in state.values() if isinstance(value, Tensor))
        images = " to ".join(str(count) for count in sorted({min(validated), max(validated)}))
        norms = "off"
        if config.trainer.sync_batchnorm:
            norms = f"{self.norm_layers} calls per step: {self.gathered_bytes:,} bytes sent to each other process, "
            norms += f"{self.reduced_bytes:,} bytes summed"
        ring = 2 * (processes - 1) * gradients // processes
        self.table = {
            "processes": str(processes),
            "batch": f"{config.batch_size} images: {share} per process, {share // config.trainer.first_parts} per part",
            "steps": f"{data.steps_per_epoch} per epoch, {data.total_steps} in total",
            "learning rate": f"{self.learning_rate:.3g} at step 1, {config.lr:g} at its peak",
            "images": self.crops,
            "logits": f"{self.logits} per part",
            "training images": f"{data.steps_per_epoch * share} per process and epoch",
            "validation images": f"{images} per process",
            "parameters": f"{sum(map(Tensor.numel, parameters)):,}, of which {trained:,} are trained",
            "gradients": f"{gradients:,} bytes per step in {len(self.bucket_bytes)} buckets",
            "ring all-reduce": f"{ring:,} bytes sent by each process per step",
            "sync batch norm": norms,
            "optimiser state": f"{state_bytes:,} bytes per process",
            "peak memory": f"{self.memory:.0f} MiB per process",
            "seconds per step": f"{self.seconds:.3g} on this device, without waiting for data and other processes",
        }


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"

"""Parts in which a step is taken; `trainer.accumulate=auto` finds their number by trials."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from pytorch_lightning.utilities.seed import isolate_rng
from torch import Tensor

from fcn.config import Config, ConfigError
from fcn.config.schema import AUTO
from fcn.config.trainer_rules import smallest_part
from fcn.errors import is_out_of_memory
from fcn.models.device import keep_freed_memory
from fcn.training.compute import buffers_kept, check_batch_norm

if TYPE_CHECKING:
    from fcn.training.task import SegmentationTask

log = logging.getLogger(__name__)

NUM_TRIALS = 2
"""Steps of an execution before which the number is tried: the second has the state of the optimiser in memory."""


class StepParts:
    """Number of equal parts in which each process takes its share of a step.

    With `trainer.accumulate=auto`, forward and backward pass of a step are tried before the first `NUM_TRIALS` steps of
    an execution. The number is raised until they fit into the memory of every process. A trial changes nothing else, so
    that a run has the result of a run with this number.

    Attributes:
        number: number of parts.
    """

    def __init__(self, config: Config) -> None:
        self.number = config.trainer.first_parts
        self._config = config
        self._is_automatic = config.trainer.accumulate == AUTO
        self._num_trials = 0

    def split(self, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Yield the parts of the share of this process, given tensors [N, ...]."""
        return zip(*(tensor.tensor_split(self.number) for tensor in tensors), strict=True)

    def resume(self, checkpoint: Mapping[str, Any], *, processes: int) -> None:
        """Continue with the number of a checkpoint, if it is not configured.

        With another number of processes, the parts have no more images than before.
        """
        if self._is_automatic:
            num_parts = checkpoint.get("accumulate", 1) * len(checkpoint["metrics"])
            divisors = self._divisors(processes)
            self.number = next((each for each in divisors if each * processes >= num_parts), divisors[-1])

    def find(self, attempt: Callable[[], object], task: SegmentationTask) -> None:
        """Raise the number until `attempt`, which adds the gradients of a step, fits; a collective operation.

        Raises:
            RuntimeError: that memory is not available, if the smallest possible part does not fit.
        """
        if not self._is_automatic or self._num_trials == NUM_TRIALS:
            return
        self._num_trials += 1
        is_new = self._num_trials == 1
        while problem := _problem(attempt, task):
            log.info("parts    %s of a step do not fit into the memory", self._describe(task))
            larger = self._larger(task)
            if larger is None:
                raise RuntimeError(problem)
            self.number, is_new = larger, True
        if is_new:
            log.info("parts    each step in %s (trainer.accumulate=%s)", self._describe(task), AUTO)
        if self._num_trials == NUM_TRIALS:
            keep_freed_memory(task.device)  # not before: other libraries also need what a trial has taken and freed

    def _describe(self, task: SegmentationTask) -> str:
        images = self._config.batch_size // task.trainer.world_size // self.number
        return f"{self.number} x {images} images per process"

    def _divisors(self, processes: int) -> list[int]:
        """Return the possible numbers in ascending order, as far as the configuration tells them."""
        images = self._config.batch_size // processes
        return [each for each in range(1, images // smallest_part(self._config)[1] + 1) if images % each == 0]

    def _larger(self, task: SegmentationTask) -> int | None:
        """Return the next number that is at least doubled, or the largest possible one; None if there is none."""
        processes = task.trainer.world_size
        larger = [each for each in self._divisors(processes) if each > self.number]
        chosen = next((each for each in larger if each >= 2 * self.number), larger[-1] if larger else None)
        if chosen is None:
            return None
        part = torch.zeros(
            self._config.batch_size // processes // chosen, 3, *self._config.data.crop_size, device=task.device
        )
        try:
            with isolate_rng(include_cuda=task.device.type == "cuda"):  # dropout draws numbers
                check_batch_norm(task.network, part, self._config, parts=chosen * processes)
        except ConfigError:
            return None
        torch.clear_autocast_cache()  # it contains weights without gradients
        return chosen


def _problem(attempt: Callable[[], object], task: SegmentationTask) -> str:
    """Return why an attempt did not fit into the memory of every process; empty if it did.

    Gradients, buffers, random numbers and counts are those from before.
    """
    is_on_gpu = task.device.type == "cuda"
    problem, counts = "", task.metrics.state()
    with isolate_rng(include_cuda=is_on_gpu), buffers_kept(task.network):
        try:
            attempt()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            problem = f"out of memory: {error}"
    task.metrics.load_states([counts])
    task.zero_grad()
    torch.clear_autocast_cache()
    if problem:
        gc.collect()
        torch.cuda.empty_cache()
    if not task.trainer.strategy.reduce_boolean_decision(not problem):
        problem = problem or f"out of memory{' (CUDA)' if is_on_gpu else ''} on another rank"
        if is_on_gpu:  # the reported peak is that of the steps
            torch.cuda.reset_peak_memory_stats(task.device)
    return problem

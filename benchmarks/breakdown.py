"""Durations of the phases of a step, with a device synchronisation after each, measured alternately with a run.

torch.profiler is not used: its overhead distorts short phases, and it prints to standard error.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.benchmark import timer

from benchmarks.data_pipeline import build_data
from benchmarks.results import Breakdown
from benchmarks.settings import Settings, Variant
from benchmarks.training_loops import BareLoop
from benchmarks.training_run import OURS, MeasuredRun
from fcn.config import Config
from fcn.evaluation.metrics import SegmentationMetrics
from fcn.models.network import predicted_classes

PHASES = ("data wait", "host to device", "forward", "loss", "backward", "optimiser", "metrics")


class PhasedLoop:
    """Our training step, phase by phase, on the batches of a run's loader."""

    def __init__(self, config: Config) -> None:
        self.bare = BareLoop(config)
        self.device = self.bare.task.device
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.metrics = SegmentationMetrics(len(config.data.classes)).to(self.device)
        self.data = build_data(config, self.bare.trainer)
        loader = self.data.train_dataloader()
        self.batches: Iterator[dict[str, Any]] = itertools.chain.from_iterable(iter(loader) for _ in itertools.count())

    def milliseconds(self, steps: int) -> dict[str, float]:
        """Return the milliseconds per step by phase, over `steps` steps after an uncounted one."""
        with torch.enable_grad(), torch.autocast(self.device.type, enabled=False):
            self._step()
            self.seconds = dict.fromkeys(PHASES, 0.0)
            for _ in range(steps):
                self._step()
        return {name: 1000 * seconds / steps for name, seconds in self.seconds.items()}

    @contextlib.contextmanager
    def _phase(self, name: str) -> Iterator[None]:
        start = timer()
        yield
        self.seconds[name] += timer() - start  # includes the work on the device

    def _step(self) -> None:
        bare = self.bare
        with self._phase("data wait"):
            batch = next(self.batches)
        with self._phase("host to device"):
            batch = self.data.transfer_batch_to_device(batch, self.device, 0)
        images, masks = batch["image"], batch["mask"]
        with bare.precision():
            with self._phase("forward"):
                logits = bare.task(images)
            with self._phase("loss"):
                loss = bare.loss(logits, masks)
        with self._phase("backward"):
            torch.autograd.backward(loss)
        with self._phase("optimiser"):
            bare.optimizer.step()
            bare.optimizer.zero_grad()
        with self._phase("metrics"):
            one = torch.ones((), device=self.device)
            self.metrics.update(predicted_classes(logits.detach()), masks, loss=(one, one))


def measure_breakdown(settings: Settings) -> list[Breakdown]:
    """Break down the step of every uncompiled variant; a compiled network has no separate phases."""
    return [_break_down(settings, variant) for variant in settings.variants if not variant.compile]


def _break_down(settings: Settings, variant: Variant) -> Breakdown:
    run = MeasuredRun(settings, variant, "breakdown")
    loop = PhasedLoop(run.config)
    rounds: list[dict[str, float]] = []

    def measure_phases() -> float:
        rounds.append(loop.milliseconds(settings.steps))
        return sum(rounds[-1].values())

    step_ms = run.milliseconds(phases=measure_phases)[OURS]
    height, width = run.config.data.crop_size
    title = f"step on {run.config.batch_size} x {height}x{width}, {variant}"
    return Breakdown.of(title, rounds[1:], step_ms, rest="Lightning, log")  # excludes the warm-up round

"""Where the time of a step goes: phases one by one, with a wait for the device after each, and the whole in a run."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from benchmarks.loops import BareLoop
from benchmarks.measuring import synchronise
from benchmarks.results import Breakdown, Findings
from benchmarks.settings import Settings
from benchmarks.training import OURS, configured, train_in_turns
from fcn.config import Config
from fcn.data.module import VOCDataModule
from fcn.evaluation.metrics import SegmentationMetrics, predicted_classes
from fcn.training.diagnostics import upsampling_layers

PHASES = ("data wait", "host to device", "trunk", "upsampling", "loss", "backward", "optimiser", "metrics")
REST = "Lightning, log"


class PhasedLoop:
    """Our step, phase by phase, on the batches of a run's loader.

    Attributes:
        seconds: by phase, since they were last taken.
    """

    def __init__(self, config: Config) -> None:
        self.bare = BareLoop(config)
        self.device = self.bare.task.device
        self.metrics = SegmentationMetrics(len(config.data.classes)).to(self.device)
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self.data, self._batches = batches(config, self.bare)
        self._last = 0.0
        for layer in upsampling_layers(self.bare.task.network.model).values():
            layer.register_forward_pre_hook(lambda *_: self._lap("trunk"))
            layer.register_forward_hook(lambda *_: self._lap("upsampling"))

    def take(self, steps: int) -> dict[str, float]:
        """Seconds per step by phase, of `steps` steps after one that is not counted."""
        for number in range(steps + 1):
            if number == 1:
                self.seconds = dict.fromkeys(PHASES, 0.0)
            with torch.enable_grad(), torch.autocast(self.device.type, enabled=False):
                self._step()
        return {phase: value / steps for phase, value in self.seconds.items()}

    def _step(self) -> None:
        bare = self.bare
        synchronise(self.device.type)
        self._last = time.perf_counter()
        batch = next(self._batches)
        self._lap("data wait")
        batch = self.data.transfer_batch_to_device(batch, self.device, 0)
        images, masks = batch["image"], batch["mask"]
        self._lap("host to device")
        with bare.precision():
            logits = bare.task(images)
            self._lap("trunk")  # the crop to the image's size, after the last upsampling, is a view
            loss = bare.loss(logits, masks)
        self._lap("loss")
        torch.autograd.backward(loss)
        self._lap("backward")
        bare.optimizer.step()
        bare.optimizer.zero_grad()
        self._lap("optimiser")
        self._count(logits.detach(), masks)
        self._lap("metrics")

    def _count(self, logits: Tensor, masks: Tensor) -> None:
        counted = torch.ones(2, device=self.device)
        self.metrics.update(predicted_classes(logits), masks, loss=(counted[0], counted[1]))

    def _lap(self, phase: str) -> None:
        synchronise(self.device.type)
        now = time.perf_counter()
        self.seconds[phase] += now - self._last
        self._last = now


def batches(config: Config, bare: BareLoop) -> tuple[VOCDataModule, Iterator[dict[str, Any]]]:
    """A run's own data, and the batches of its loader for ever, outside a run."""
    data = VOCDataModule(config)
    data.prepare_data()
    data.setup("fit")
    data.trainer = bare.trainer
    loader = data.train_dataloader()
    return data, itertools.chain.from_iterable(iter(loader) for _ in itertools.count())


def measure(settings: Settings) -> Findings:
    """A breakdown for every variant that is not compiled: in a compiled network the phases cannot be told apart."""
    found = Findings()
    for variant in settings.variants:
        if variant.compile:
            continue
        name = f"breakdown-{variant}"
        config, settle = configured(settings, variant, name)
        loop = PhasedLoop(config)
        rounds: list[dict[str, float]] = []

        def phased(loop: PhasedLoop = loop, rounds: list[dict[str, float]] = rounds) -> float:
            rounds.append(loop.take(settings.steps))
            return sum(rounds[-1].values())

        step = train_in_turns(config, settings, {"phased": phased}, settle=settle, name=name)[OURS]
        phases = {phase: [1000 * one[phase] for one in rounds[1:]] for phase in PHASES}  # the first: warm-up
        whole = [1000 * value for value in step]
        height, width = config.data.crop_size
        title = f"step on {config.batch_size} x {height}x{width}, {variant}"
        found.breakdowns.append(Breakdown.of(title, phases, whole, rest=REST))
    return found

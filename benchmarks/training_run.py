"""A training run measured as users execute it: `fcn.training.train.train` on a separate run directory.

The clock is a step hook of torch's optimisers; nothing in the run is replaced. Every epoch is one round with these
parts: uncounted steps, until the batches that loader processes prepared during the pause are used up; the measured
steps; the other contestants, while the training pauses; and an uncounted last step, because the last step of an epoch
does more work than the others.
"""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.benchmark import timer

from benchmarks.settings import Settings, Variant, make_tree
from fcn.training.train import train

OURS = "ours"

QUIET_EPOCHS = ("trainer.val_every=1000", "trainer.sample_images=0")
"""Overrides that reduce the work between epochs, which is not measured."""


@dataclass
class StepClock:
    """Measures the steps of the run in this process, and runs the other contestants during its pauses.

    Attributes:
        settle: uncounted steps at the beginning of an epoch, at least 1.
        steps: measured steps of an epoch.
        others: other contestants, which measure themselves once when called.
        log: function that is called with a line per round.
        values: values of all rounds by contestant; ours are seconds per step.
    """

    settle: int
    steps: int
    others: Mapping[str, Callable[[], float]]
    log: Callable[[str], object] = lambda line: None
    values: dict[str, list[float]] = field(default_factory=dict)
    _done: int = 0
    _started: float = 0.0
    _paused: bool = False

    @property
    def steps_per_epoch(self) -> int:
        return self.settle + self.steps + 1

    def __call__(self, *arguments: Any) -> None:
        """Count a step; called after every step of every optimiser in this process."""
        if self._paused:
            return  # a step of another contestant
        self._done += 1
        epoch, step = divmod(self._done, self.steps_per_epoch)
        if step == self.settle:
            self._started = timer()
        if step == self.settle + self.steps:
            self._finish_round((timer() - self._started) / self.steps, warm_up=epoch == 0)

    def _finish_round(self, seconds: float, *, warm_up: bool) -> None:
        self._paused = True
        values = {OURS: seconds, **{name: measure() for name, measure in self.others.items()}}
        self._paused = False
        self.log("warm-up" if warm_up else f"round {len(self.values.get(OURS, [])) + 1}")
        for name, value in values.items():
            if not warm_up:
                self.values.setdefault(name, []).append(value)


class MeasuredRun:
    """Training of a warm-up epoch and `settings.rounds` epochs, on images that it writes.

    Args:
        settings: settings of the benchmarks.
        variant: precision of the network, and whether it is compiled.
        name: name of the benchmark; with the variant, it names the run directory.
        overrides: further overrides of the configuration.
    """

    def __init__(self, settings: Settings, variant: Variant, name: str, *overrides: str) -> None:
        self.settings = settings
        self.name = f"{name}-{variant}".replace(", ", "-")
        config = settings.config(Path("tree"), variant, *overrides)
        workers = config.data.num_workers
        if workers is None:  # as VOCDataModule chooses
            workers = min(8, os.cpu_count() or 1) if settings.on_gpu else 0
        self.settle = 1 + 2 * workers  # a loader process prepares two batches
        num_images = (self.settle + settings.steps + 1) * config.batch_size
        tree = make_tree(settings.folder / f"{self.name}-tree", num_train=num_images, source=settings.data_root)
        self.config = settings.config(tree, variant, *overrides, f"epochs={settings.rounds + 1}", *QUIET_EPOCHS)

    def milliseconds(self, **others: Callable[[], float]) -> dict[str, list[float]]:
        """Train, alternating with other contestants; return the milliseconds per step of all rounds by contestant.

        Args:
            others: contestants that measure themselves once when called, and return seconds per step.
        """
        settings = self.settings
        clock = StepClock(self.settle, settings.steps, others, log=lambda line: settings.log(f"{self.name}: {line}"))
        handle = register_optimizer_step_post_hook(clock)
        try:
            # The output of the run is in its train.log.
            with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
                train(self.config, settings.folder / self.name)
        finally:
            handle.remove()
        if settings.on_gpu:
            torch.cuda.empty_cache()
        return {name: [1000 * value for value in values] for name, values in clock.values.items()}

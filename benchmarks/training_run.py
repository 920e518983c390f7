"""A training run measured as users execute it: `fcn.training.train.train` on a run directory of its own.

The clock is a step hook of torch's optimisers; nothing in the run is replaced. Every epoch is one round: first steps
that do not count, until the batches that loader processes prepared during the pause are used up; then the measured
steps; then the other contestants, while the training pauses; then a last step, because the last step of an epoch does
more than the others.
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
from fcn.config import Config
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
        log: called with a line per round.
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


def compose_run(settings: Settings, variant: Variant, name: str, *overrides: str) -> tuple[Config, int]:
    """Compose a training of a warm-up epoch and `settings.rounds` epochs, and write its images.

    Returns:
        The configuration, and the number of uncounted steps at the beginning of an epoch.
    """
    workers = settings.config(Path("tree"), variant, *overrides).data.num_workers
    if workers is None:  # as VOCDataModule chooses
        workers = min(8, os.cpu_count() or 1) if settings.on_gpu else 0
    settle = 1 + 2 * workers  # a loader process prepares two batches
    batch_size = settings.config(Path("tree"), variant, *overrides).batch_size
    num_images = (settle + settings.steps + 1) * batch_size
    tree = make_tree(settings.folder / f"{name}-tree", num_train=num_images, source=settings.data_root)
    return settings.config(tree, variant, *overrides, f"epochs={settings.rounds + 1}", *QUIET_EPOCHS), settle


def train_in_turns(
    config: Config, settings: Settings, others: Mapping[str, Callable[[], float]], *, settle: int, name: str
) -> dict[str, list[float]]:
    """Train, alternating with other contestants; return the values of all rounds, ours in seconds per step.

    Args:
        config: configuration from `compose_run`.
        settings: settings of the benchmarks.
        others: other contestants, which measure themselves once when called.
        settle: uncounted steps from `compose_run`.
        name: name of the run directory.
    """
    clock = StepClock(settle, settings.steps, others, log=lambda line: settings.log(f"{name}: {line}"))
    handle = register_optimizer_step_post_hook(clock)
    try:
        # The output of the run is in its train.log.
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            train(config, settings.folder / name)
    finally:
        handle.remove()
    if settings.on_gpu:
        torch.cuda.empty_cache()
    return clock.values

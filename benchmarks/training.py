"""Our training measured as users run it, in turns with others: `fcn.train` on a run directory of its own.

The clock is a hook of torch on the steps of optimisers: nothing of a run knows of it, and nothing in it is replaced.
Every epoch is a round. It begins with steps that are not counted, until what the loader's processes made in the pause
is used up; then come the counted ones; then, while the training stands still, the others have their turn. One more
step of ours follows, because the last of an epoch does more than the others.
"""

from __future__ import annotations

import contextlib
import io
import os
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from benchmarks.measuring import synchronise
from benchmarks.settings import Settings, Variant, make_tree
from fcn.config import Config
from fcn.training import train

OURS = "ours"

UNMEASURED = ("trainer.val_every=1000", "trainer.sample_images=0")
"""Of what a run does between its epochs, which the clock leaves out, no more than must be."""


@dataclass
class Clock:
    """Counts the steps of the one run in this process, and gives the others their turn.

    Attributes:
        settle: steps at the beginning of an epoch that are not counted, at least 1.
        steps: counted steps of an epoch.
        others: each measures itself once when it is called.
        device: cpu or cuda.
        tell: called with a line at every round.
        found: by contestant, a value per round: our seconds per step, and what the others measure.
    """

    settle: int
    steps: int
    others: Mapping[str, Callable[[], float]]
    device: str
    tell: Callable[[str], object] = lambda line: None
    found: dict[str, list[float]] = field(default_factory=dict)
    _done: int = 0
    _started: float = 0.0
    _others_turn: bool = False

    @property
    def epoch(self) -> int:
        """Steps of an epoch."""
        return self.settle + self.steps + 1

    def __call__(self, *arguments: Any) -> None:
        """After every step of every optimiser in this process."""
        if self._others_turn:
            return  # a step of theirs
        self._done += 1
        epoch, step = divmod(self._done, self.epoch)
        if step == self.settle:
            synchronise(self.device)
            self._started = time.perf_counter()
        if step == self.settle + self.steps:
            synchronise(self.device)
            self._take_turns((time.perf_counter() - self._started) / self.steps, warm_up=epoch == 0)

    def _take_turns(self, seconds: float, *, warm_up: bool) -> None:
        self._others_turn = True
        values = {OURS: seconds, **{name: other() for name, other in self.others.items()}}
        self._others_turn = False
        self.tell("warmed up" if warm_up else f"round {len(self.found.get(OURS, [])) + 1}")
        for name, value in values.items():
            if not warm_up:
                self.found.setdefault(name, []).append(value)


def configured(settings: Settings, variant: Variant, name: str, *overrides: str) -> tuple[Config, int]:
    """Configuration of a training of a warm-up and `settings.rounds` epochs, on images of its own; steps to settle."""
    config = settings.config(Path("tree"), variant, *overrides)  # workers as a person would get them
    workers = config.data.num_workers
    if workers is None:
        workers = min(8, os.cpu_count() or 1) if settings.on_gpu else 0
    settle = 1 + 2 * workers  # each may hold two batches
    num_images = (settle + settings.steps + 1) * config.batch_size
    tree = make_tree(settings.folder / f"{name}-tree", num_train=num_images, source=settings.data_root)
    return settings.config(tree, variant, *overrides, f"epochs={settings.rounds + 1}", *UNMEASURED), settle


def train_in_turns(
    config: Config, settings: Settings, others: Mapping[str, Callable[[], float]], *, settle: int, name: str
) -> dict[str, list[float]]:
    """Seconds per step of a training, and what the others measure in turns with it: a value per round.

    Args:
        config: as `configured` gives it.
        settings: of the benchmarks.
        others: each measures itself once when it is called.
        settle: as `configured` gives it.
        name: of the run directory.
    """
    clock = Clock(settle, settings.steps, others, settings.device, tell=lambda line: settings.tell(f"{name}: {line}"))
    handle = register_optimizer_step_post_hook(clock)
    try:
        # What the run prints stands in its train.log.
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            train.train(config, settings.folder / name)
    finally:
        handle.remove()
    if settings.on_gpu:
        torch.cuda.empty_cache()
    return clock.found

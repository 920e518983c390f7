"""Order of the training images, and the share of each process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from torch.utils.data import Sampler

from fcn.data.datasets import ORDER, Key


@dataclass
class Rounds:
    """Division of the steps of a run into rounds, which end with scores, a checkpoint and, if it is due, a validation.

    A round is an epoch, unless `trainer.val_every_steps` sets its length; Lightning calls every round an epoch.

    Attributes:
        total_steps: number of steps of the run, at which the last round ends.
        length: number of steps of all other rounds.
        start: first step of the current round, from 0.
        end: step after the last one of the current round.
    """

    total_steps: int
    length: int
    start: int = 0
    end: int = 0

    def at(self, step: int) -> tuple[int, int]:
        """Return start and end of the round of the next step, given the number of steps done; it becomes current."""
        if not self.start <= step < self.end:
            end = step + self.length
            self.start, self.end = step, end if step >= self.total_steps else min(end, self.total_steps)
        return self.start, self.end

    def count_from(self, step: int) -> int:
        """Return the number of rounds that contain steps after the first `step` ones."""
        _, end = self.at(step)
        return 0 if step >= self.total_steps else 1 + -(-(self.total_steps - end) // self.length)


class EpochBatches(Sampler[list[Key]]):
    """Keys of one process's share of the global batches of an epoch or a round.

    Step s of a run uses batch s % n of epoch s // n, where n is the number of whole batches of the set; the last
    partial batch of an epoch is dropped.

    Args:
        num_images: size of the set.
        batch_size: images of a step over all processes.
        position: returns the number of global steps done; the next iteration starts there.
        seed: seed of the order; None keeps the order of the list.
        rounds: rounds of the run, of which an iteration is one; None: an iteration is an epoch.
        rank: rank of this process among `world_size`.
        world_size: number of processes; must divide `batch_size`.
    """

    def __init__(
        self,
        num_images: int,
        *,
        batch_size: int,
        position: Callable[[], int],
        seed: int | None,
        rounds: Rounds | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.num_images = num_images
        self.batch_size = batch_size
        self.position = position
        self.seed = seed
        self.rounds = rounds
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        start, end = self._bounds()
        return end - start

    def _bounds(self) -> tuple[int, int]:
        """Return the first step of the current iteration, and the step after its last one."""
        if self.rounds:
            return self.rounds.at(self.position())
        steps_per_epoch = self.num_images // self.batch_size
        start = self.position() // steps_per_epoch * steps_per_epoch
        return start, start + steps_per_epoch

    def order(self, epoch: int) -> list[int]:
        """Return all image indices in the order of `epoch`."""
        if self.seed is None:
            return list(range(self.num_images))
        rng = np.random.default_rng([self.seed, ORDER, epoch])
        return [int(index) for index in rng.permutation(self.num_images)]

    def __iter__(self) -> Iterator[list[Key]]:
        order: tuple[int, list[int]] | None = None
        for step in range(self.position(), self._bounds()[1]):
            epoch, batch = divmod(step, self.num_images // self.batch_size)
            if order is None or order[0] != epoch:
                order = epoch, self.order(epoch)
            images = order[1][batch * self.batch_size : (batch + 1) * self.batch_size]
            yield [(epoch, index) for index in images[self.rank :: self.world_size]]

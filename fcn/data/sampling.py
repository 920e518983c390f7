"""Order of the training images, and the share of each process."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
from torch.utils.data import Sampler

from fcn.data.datasets import Key

# The number after the seed separates the random streams of different purposes.
ORDER, AUGMENTATION, D2L_CROPS = range(3)


class EpochBatches(Sampler[list[Key]]):
    """Keys of one process's share of every global batch of an epoch; the last partial batch is dropped.

    Args:
        num_images: size of the set.
        batch_size: images of a step over all processes.
        position: returns the number of global steps done; it decides in which epoch, and at which step of it, the next
            iteration starts.
        seed: seed of the order; None keeps the order of the list.
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
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.num_images = num_images
        self.batch_size = batch_size
        self.position = position
        self.seed = seed
        self.rank = rank
        self.world_size = world_size

    def __len__(self) -> int:
        return self.num_images // self.batch_size

    def order(self, epoch: int) -> list[int]:
        """Return all image indices in the order of `epoch`."""
        if self.seed is None:
            return list(range(self.num_images))
        rng = np.random.default_rng([self.seed, ORDER, epoch])
        return [int(index) for index in rng.permutation(self.num_images)]

    def __iter__(self) -> Iterator[list[Key]]:
        epoch, done = divmod(self.position(), len(self))
        order = self.order(epoch)
        for step in range(done, len(self)):
            batch = order[step * self.batch_size : (step + 1) * self.batch_size]
            yield [(epoch, index) for index in batch[self.rank :: self.world_size]]

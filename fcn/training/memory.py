"""Memory of a training step: an estimate from its crops, and the memory of this machine."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from fcn.models.device import device_name

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")
"""File with a line `<number>:<controllers>:<path>` for each cgroup of this process."""

BYTES = 4  # of a number in fp32
COPIES_OF_WEIGHTS = 4  # the weight, its gradient, and two moments of the optimiser
MAPS_OF_CLASSES = 4  # logits and logarithms of the probabilities, and the gradients of both


@dataclass(frozen=True)
class Footprint:
    """Memory that a network needs in training, in fp32.

    Attributes:
        per_pixel: bytes for each pixel of a crop that the backbone saves for the backward pass.
        heads: number of outputs with a loss: 2 with an auxiliary head.
        parameters: number of parameters with those of the heads, for 21 classes.
    """

    per_pixel: int
    parameters: int
    heads: int = 1

    def of_step(self, crops: int, crop_size: tuple[int, int], *, num_classes: int) -> int:
        """Return the bytes of a step on `crops` crops: what is saved for the backward pass, class maps, and weights."""
        height, width = crop_size
        per_pixel = self.per_pixel + BYTES * MAPS_OF_CLASSES * self.heads * num_classes
        return crops * height * width * per_pixel + BYTES * COPIES_OF_WEIGHTS * self.parameters


@dataclass(frozen=True)
class Machine:
    """Devices on which a run without the key `trainer` is executed.

    Attributes:
        name: GPU or processor.
        num_gpus: number of GPUs, 0 for the CPU.
        memory: bytes that are free on the first GPU, or of the main memory, without what a container may not use.
    """

    name: str
    num_gpus: int
    memory: int


def this_machine() -> Machine:
    """Return the devices of this machine and their memory."""
    if torch.cuda.is_available():
        device = torch.device("cuda", 0)
        return Machine(device_name(device), torch.cuda.device_count(), torch.cuda.mem_get_info(device)[0])
    return Machine(device_name(torch.device("cpu")), 0, main_memory())


def main_memory() -> int:
    """Return the bytes of the main memory, without what a container may not use."""
    return min([os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), *_cgroup_limits()])


def _cgroup_limits() -> Iterator[int]:
    """Yield the memory limits of the cgroups of this process, such as those of a container or of a job of SLURM.

    Every cgroup above that of the process limits it too. A container may see only its own, as the root.
    """
    for file in _limit_files():
        with contextlib.suppress(OSError, ValueError):  # without a limit, the file is missing or holds no number
            yield int(file.read_text())


def _limit_files() -> Iterator[Path]:
    """Yield the files that may hold a memory limit, in the two versions of cgroups."""
    files = {"": (CGROUPS, "memory.max"), "memory": (CGROUPS / "memory", "memory.limit_in_bytes")}
    yield from (root / name for root, name in files.values())
    with contextlib.suppress(OSError):
        for line in OWN_CGROUPS.read_text().splitlines():
            _, controllers, path = line.split(":", maxsplit=2)
            for controller in files.keys() & controllers.split(","):
                root, name = files[controller]
                parts = [part for part in path.split("/") if part not in ("", "..")]  # .. is outside the container
                yield from (root.joinpath(*parts[:count], name) for count in range(1, len(parts) + 1))

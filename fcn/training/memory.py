"""Memory of a training step: an estimate from its crops, and the memory of this machine."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

import torch

from fcn.models.device import device_name

CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Files with the memory limit of a container, in the two versions of cgroups; without a limit, they hold no number."""

BYTES = 4  # of a number in fp32
COPIES_OF_WEIGHTS = 4  # the weight, its gradient, and two moments of the optimiser
MAPS_OF_CLASSES = 4  # logits and logarithms of the probabilities, and the gradients of both


@dataclass(frozen=True)
class Footprint:
    """Memory that a network needs in training, in fp32.

    Attributes:
        per_pixel: bytes for each pixel of a crop that the backbone saves for the backward pass.
        heads: number of outputs with a loss: 2 with an auxiliary head.
        parameters: number of parameters, without the head.
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
    limits = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for path in CGROUP_LIMITS:
        with contextlib.suppress(OSError, ValueError):
            limits.append(int(path.read_text()))
    return Machine(device_name(torch.device("cpu")), 0, min(limits))

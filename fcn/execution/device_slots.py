"""Devices: how many processes a run has, and which GPUs or cores each job of a sweep or search gets."""

from __future__ import annotations

import os
from collections.abc import Sequence

from fcn.config import Config, ConfigError, check_batch_size, check_trains
from fcn.config.choices import Accelerator


def count_processes(config: Config, *, num_gpus: int | None = None) -> int:
    """Return the number of processes of a run: `trainer.devices`, or all GPUs, or one on the CPU.

    Args:
        config: configuration of the run.
        num_gpus: GPUs available to the run; None: those that torch sees in this process.

    Raises:
        ConfigError: if there are too few GPUs, the batch cannot be divided evenly, or the configuration is that of a
            dry run.
    """
    check_trains(config)
    num_processes = config.trainer.devices or 1
    if config.trainer.accelerator is not Accelerator.cpu:
        available = count_gpus() if num_gpus is None else num_gpus
        num_processes = config.trainer.devices or max(available, 1)
        if num_processes > available and (available or config.trainer.accelerator is Accelerator.gpu):
            raise ConfigError(
                f"trainer.devices (={num_processes}) must be at most the GPUs that torch sees (={available}); "
                "use trainer=cpu"
            )
    check_batch_size(config, num_processes)
    return num_processes


def count_gpus() -> int:
    """Return the number of GPUs that torch sees."""
    import torch  # slow to import, and not needed to print a configuration

    return torch.cuda.device_count()


def build_slots(configs: Sequence[Config], *, number: int | None = None, per_gpu: int = 1) -> list[dict[str, str]]:
    """Return the environment variables of the slots in which these runs are executed concurrently.

    The slots fill the GPUs in turn. Each slot has GPUs of its own, or shares each of them with `per_gpu` - 1 others;
    more slots than that share the GPUs evenly. On the CPU the slots share the cores.

    Args:
        configs: configurations of the runs; the run with the most processes determines the size of a slot.
        number: number of slots; None: as many as the GPUs suffice for, or one on the CPU.
        per_gpu: number of slots for which a GPU suffices; without effect on the CPU.

    Raises:
        ConfigError: if a number is invalid, or a run cannot be executed in such a slot.
    """
    if number is not None:
        _check_number("slots", number, remedy="omit it to use all GPUs")
    _check_number("slots_per_gpu", per_gpu, remedy="omit it for one job per GPU")
    uses_gpus = any(config.trainer.accelerator is not Accelerator.cpu for config in configs)
    gpus = _visible_gpus() if uses_gpus else []
    places = len(gpus) * per_gpu
    gpus_per_slot = max(1, min(len(gpus), places // (number or 1)))  # if a run uses all GPUs
    devices = max((config.trainer.devices or gpus_per_slot for config in configs), default=1)
    number = number or max(1, places // devices)
    for config in configs:
        count_processes(config, num_gpus=min(devices, len(gpus)))
    if gpus:
        first = [slot * devices for slot in range(number)]
        size = min(devices, len(gpus))
        return [{"CUDA_VISIBLE_DEVICES": ",".join(gpus[(n + i) % len(gpus)] for i in range(size))} for n in first]
    if number > 1 and "OMP_NUM_THREADS" not in os.environ:
        return [{"OMP_NUM_THREADS": threads_per_process(number * devices)}] * number
    return [{}] * number


def _check_number(key: str, number: int, *, remedy: str) -> None:
    if type(number) is not int or number < 1:
        raise ConfigError(f"{key} (={number}) must be a whole number of at least 1; {remedy}")


def threads_per_process(num_processes: int) -> str:
    """Return a value of OMP_NUM_THREADS with which processes share the cores of this machine."""
    return str(max(1, (os.cpu_count() or 1) // num_processes))


def _visible_gpus() -> list[str]:
    """Return the GPUs that torch sees, as they are named in CUDA_VISIBLE_DEVICES."""
    count = count_gpus()
    names = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return names[:count] if len(names) >= count > 0 and names[0] else [str(index) for index in range(count)]

"""The device of a process: its choice by the key `accelerator`, its name, and its memory of freed tensors."""

from __future__ import annotations

import ctypes
import os
import sys

import torch

from fcn.config import ConfigError
from fcn.config.choices import Accelerator
from fcn.runs.provenance import processor

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h


def has_gpu(accelerator: Accelerator) -> bool:
    """Whether `accelerator` allows a GPU and torch sees one."""
    return accelerator is not Accelerator.cpu and torch.cuda.is_available()


def choose_device(accelerator: Accelerator, *, key: str = "accelerator") -> torch.device:
    """Return the device of this process: a GPU if there is one, unless `accelerator` is `cpu`.

    Args:
        accelerator: value of the key.
        key: name of the key, for the message.

    Raises:
        ConfigError: if a GPU is required but not available.
    """
    if accelerator is Accelerator.gpu and not torch.cuda.is_available():
        raise ConfigError(f"{key} (=gpu) needs a GPU, and torch sees none; use {key}=cpu")
    return torch.device("cuda" if has_gpu(accelerator) else "cpu")


def device_name(device: torch.device) -> str:
    """Return the name of a GPU as CUDA gives it, or that of the processor with its number of cores."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"CPU {processor()} ({os.cpu_count()} cores)"


def keep_freed_memory(device: torch.device) -> None:
    """On a CPU, keep the memory of freed tensors in this process, if its allocator is that of glibc (Linux).

    By default, glibc asks the system for the memory of every large tensor, and returns it when the tensor is freed.
    The system then clears each page again, in every step. The environment variables of glibc have precedence.
    """
    names = [name for name in os.environ if name.startswith("MALLOC_") or name == "GLIBC_TUNABLES"]
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if device.type == "cpu" and mallopt is not None and not names:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)

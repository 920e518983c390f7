"""The device of a process: its choice by the key `accelerator`, and its name."""

from __future__ import annotations

import os

import torch

from fcn.config import ConfigError
from fcn.config.choices import Accelerator
from fcn.runs.provenance import processor


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

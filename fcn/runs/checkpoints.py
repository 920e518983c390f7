"""Checkpoints of a run: finding, reading and validating them. Reading never executes code of a pickle."""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fcn import runs
from fcn.config import ConfigError
from fcn.errors import UserError
from fcn.runs.atomic_files import TEMPORARY

log = logging.getLogger(__name__)

PARTS = ("config", "state_dict")
"""Entries of a checkpoint that describe a trained network."""

TRAINED = "current_model_state"
"""Entry with the trained weights if `state_dict` is their average, named as by Lightning's WeightAveraging."""

AVERAGED = "averaged_model_state"
"""Entry with the average while a checkpoint with `TRAINED` is restored for training; never in a file."""

OPTIONAL_PARTS = ("components", "normalization")
"""Entries that checkpoints of older versions lack, read as empty: components from outside, mean and std of images."""


class CheckpointError(UserError):
    """Raised if a file is not a checkpoint of this project, or does not fit."""


def find_checkpoint(run: str | Path | None) -> Path:
    """Return the best checkpoint of a run directory, else the last; or `run` itself if it is a file.

    Raises:
        CheckpointError: if there is no checkpoint, or `run` is None or empty.
    """
    if not run:
        raise CheckpointError("run (=null) must be a run directory or a checkpoint; use run=outputs/<name>/<time>")
    path = Path(run)
    checkpoint = runs.checkpoint_of(path) if path.is_dir() else path
    if checkpoint is None:
        raise CheckpointError(f"{path} must be a run with a saved checkpoint, but {path / runs.LAST} is missing")
    if not checkpoint.is_file():
        raise CheckpointError(f"{path} must be an existing run directory or checkpoint")
    return checkpoint


def read_checkpoint(checkpoint: Path) -> dict[str, Any]:
    """Return `config`, `state_dict`, `components` and `normalization` of a checkpoint, by these names.

    Raises:
        CheckpointError: if the file cannot be read, or lacks one of them.
    """
    rule = f"{checkpoint} must be a checkpoint saved by train.py"
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{rule}, but cannot be read: {error.strerror or error}") from error
    except Exception as error:  # torch.load raises many types, IndexError among them
        problem = "holds more than tensors and plain values (nothing was executed)"
        if not zipfile.is_zipfile(checkpoint):
            problem = "is truncated or another kind of file"
        raise CheckpointError(f"{rule}, but {problem}; use another one, such as {Path(runs.LAST).name}") from error
    if not isinstance(content, Mapping) or not all(isinstance(content.get(key), Mapping) for key in PARTS):
        raise CheckpointError(f"{rule}, but lacks config or state_dict; use backbone.weights for a file of weights")
    optional = {key: content.get(key, {}) for key in OPTIONAL_PARTS}
    return {**optional, **{key: content[key] for key in PARTS}}


def data_state(checkpoint: Path) -> dict[str, Any]:
    """Return the state of the data module in a checkpoint of a run; empty without one."""
    content: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)
    return dict(content.get("VOCDataModule", {}))


def network_weights(run: str | Path) -> dict[str, Tensor]:
    """Return the weights of the network in a run or checkpoint, by their names in the network.

    Raises:
        CheckpointError: if there is no checkpoint, or it cannot be read, or its weights are not finite.
    """
    checkpoint = find_checkpoint(run)
    state = read_checkpoint(checkpoint)["state_dict"]
    check_finite(checkpoint, state)
    return {name.removeprefix("model."): value for name, value in state.items() if name.startswith("model.")}


def check_finite(checkpoint: Path, state: Mapping[str, Tensor]) -> None:
    """Raise CheckpointError if a weight is NaN or infinite."""
    if name := not_finite(state):
        raise CheckpointError(
            f"{checkpoint} must hold finite weights, but {name} has NaN or infinity; use another checkpoint of the run"
        )


def not_finite(state: Mapping[str, Tensor]) -> str | None:
    """Return the name of the first tensor that holds NaN or infinity; None if all are finite."""
    # Tensors on the meta device have no values.
    floats = {name: value for name, value in state.items() if value.is_floating_point() and not value.is_meta}
    if not floats:
        return None
    # One synchronisation with the device: in float64, the sum of finite values is finite.
    finite = torch.stack([value.detach().sum(dtype=torch.float64) for value in floats.values()]).isfinite().tolist()
    return next((name for name, is_finite in zip(floats, finite, strict=True) if not is_finite), None)


def prepare_last_checkpoint(run_dir: Path) -> Path | None:
    """Return the last checkpoint of a run, from which it is resumed; None if it has none.

    A damaged checkpoint is first replaced by the previous one; resuming from it gives bit-identical results. Incomplete
    files of a killed execution are deleted.

    Raises:
        ConfigError: if all checkpoints are damaged, or those of a run that had some are missing.
    """
    last, is_writer = run_dir / runs.LAST, runs.is_rank_zero()
    if is_writer:
        for folder in (run_dir, last.parent, run_dir / runs.SAMPLES):  # other folders may be in use by other commands
            for unfinished in folder.glob(TEMPORARY):
                unfinished.unlink()
    existing = [run_dir / name for name in (runs.LAST, runs.PREVIOUS, runs.BEST) if (run_dir / name).exists()]
    sound = next((path for path in existing if is_sound(path)), None)
    if sound is None:
        if existing:
            raise ConfigError(f"{last} and all other checkpoints are damaged; start a new run")
        if runs.read_summary(run_dir).get("metrics"):
            raise ConfigError(f"{last} is missing; restore it, or start a new run")
        return None
    if sound != last:
        log.warning("%s is damaged or missing; resuming from %s, the one before", last, sound.name)
        if is_writer:
            runs.copy_file(sound, last)
    return last


def is_sound(checkpoint: Path) -> bool:
    """Whether the file can be loaded, its weights are finite, and its checksums (ignored by torch.load) are right."""
    try:
        with zipfile.ZipFile(checkpoint) as parts:
            checksums_agree = parts.testzip() is None
        state = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True).get("state_dict", {})
        is_finite = not_finite(state) is None
    except Exception:  # damaged files cause errors of many types
        return False
    return checksums_agree and is_finite

"""Checkpoints of a run: found, read as plain data, and checked."""

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
"""Of a checkpoint, what a trained network is made of."""


class CheckpointError(UserError):
    """A file that is no checkpoint of this project, or none that fits."""


def find_checkpoint(run: str | Path) -> Path:
    """The best checkpoint of a run directory, or the last if there is no best; a file is taken as it is.

    Raises:
        CheckpointError: if it is not there.
    """
    path = Path(run)
    found = runs.checkpoint_of(path) if path.is_dir() else path
    if found is None:
        raise CheckpointError(f"{path} must be a run that has saved a checkpoint, but {path / runs.LAST} is not there")
    if not found.is_file():
        raise CheckpointError(f"{path} must be a run directory or a checkpoint, but nothing is there")
    return found


def read_checkpoint(checkpoint: Path) -> dict[str, Any]:
    """Config and weights of a checkpoint; no code of a pickle is run.

    Raises:
        CheckpointError: if the file cannot be read, or does not hold them.
    """
    rule = f"{checkpoint} must be a checkpoint saved by train.py"
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{rule}, and cannot be read: {error.strerror or error}") from error
    except Exception as error:  # of many kinds, IndexError among them, for what is no checkpoint
        problem = "holds more than tensors and plain values, of which nothing was executed"
        if not zipfile.is_zipfile(checkpoint):
            problem = "is cut off, or another kind of file"
        raise CheckpointError(f"{rule}, and {problem}; use another one, such as {Path(runs.LAST).name}") from error
    if not isinstance(content, Mapping) or not all(isinstance(content.get(key), Mapping) for key in PARTS):
        raise CheckpointError(f"{rule}, but lacks its config and state_dict; weights alone are for backbone.weights")
    return {key: content[key] for key in PARTS}


def network_weights(run: str | Path) -> dict[str, Tensor]:
    """Weights of the network in a run or checkpoint, by their names in the network.

    Raises:
        CheckpointError: if there is no checkpoint, or it does not load.
    """
    checkpoint = find_checkpoint(run)
    state = read_checkpoint(checkpoint)["state_dict"]
    check_finite(checkpoint, state)
    return {name.removeprefix("model."): value for name, value in state.items() if name.startswith("model.")}


def check_finite(checkpoint: Path, state: Mapping[str, Tensor]) -> None:
    """No score and no mask of a network that has come to NaN means anything."""
    if broken := not_finite(state):
        rule = "must hold finite weights to be used"
        raise CheckpointError(
            f"{checkpoint} {rule}, but {broken} has NaN or infinity; use another of the run's checkpoints"
        )


def not_finite(state: Mapping[str, Tensor]) -> str | None:
    """Name of the first tensor that holds NaN or infinity; None if all are finite."""
    # Tensors of the meta device have names and shapes alone.
    floats = {name: value for name, value in state.items() if value.is_floating_point() and not value.is_meta}
    if not floats:
        return None
    # One wait for the device; the sum of a tensor is finite unless an element is not.
    finite = torch.stack([value.detach().sum(dtype=torch.float64) for value in floats.values()]).isfinite().tolist()
    return next((name for name, is_finite in zip(floats, finite, strict=True) if not is_finite), None)


def newest(run_dir: Path) -> Path | None:
    """The last checkpoint of a run, or None if it has none.

    One that is damaged is replaced by the one before, from which training comes to the same bits.

    Raises:
        ConfigError: if there are checkpoints, and all of them are damaged.
    """
    last, is_first = run_dir / runs.LAST, runs.is_rank_zero()
    if is_first:
        for folder in (run_dir, last.parent, run_dir / runs.SAMPLES):  # not those where others may be writing
            for half in folder.glob(TEMPORARY):  # of an execution that was killed
                half.unlink()
    found = [run_dir / name for name in (runs.LAST, runs.PREVIOUS, runs.BEST) if (run_dir / name).exists()]
    sound = next((path for path in found if is_sound(path)), None)
    if sound is None:
        if not found and not runs.read_summary(run_dir).get("metrics"):
            return None
        if not found:
            raise ConfigError(f"{last} must be there to go on from, as before; bring it back, or begin a new run")
        raise ConfigError(f"{last} must be a checkpoint to go on from, but all that are there are damaged; train anew")
    if sound != last:
        log.warning("%s is damaged or gone; going on from %s, the one before", last, sound.name)
        if is_first:
            runs.copy_file(sound, last)
    return last


def is_sound(checkpoint: Path) -> bool:
    """Whether the file loads, with finite weights, and every part has the sum that torch.load does not look at."""
    try:
        with zipfile.ZipFile(checkpoint) as parts:
            sums_agree = parts.testzip() is None
        state = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True).get("state_dict", {})
        is_finite = not_finite(state) is None
    except Exception:  # of many kinds, for what the directory of the file can be damaged to
        return False
    return sums_agree and is_finite

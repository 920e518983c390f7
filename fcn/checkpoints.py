"""Checkpoints of a run directory: written whole, kept twice, and read back only if they are sound."""

from __future__ import annotations

import logging
import os
import zipfile
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO

from fcn import runs
from fcn.config import ConfigError
from fcn.files import TEMPORARY, replacing
from fcn.models.weights import not_finite

log = logging.getLogger(__name__)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint under a temporary name and renames it: a name never stands for half a file."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary, open(temporary, "wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())  # or a power cut could leave the new name and not the content


def save(trainer: pl.Trainer, run_dir: Path, *, best: bool = False) -> None:
    """Save where training stands as the last checkpoint, and keep the one before; a collective.

    Args:
        trainer: of the run.
        run_dir: of the run.
        best: whether it is the best as well.
    """
    last = run_dir / runs.LAST
    if trainer.is_global_zero and last.exists():
        runs.copy_file(last, run_dir / runs.PREVIOUS)
    # The best is written first: after a kill in between, the run goes on from the older last and comes by again.
    trainer.save_checkpoint(run_dir / runs.BEST if best else last)
    if best and trainer.is_global_zero:
        runs.copy_file(run_dir / runs.BEST, last)


def newest(run_dir: Path) -> Path | None:
    """The last checkpoint of a run, or None if it has none.

    One that is damaged is replaced by the one before, from which training comes to the same bits.

    Raises:
        ConfigError: if there are checkpoints, and all of them are damaged.
    """
    last, is_first = run_dir / runs.LAST, int(os.environ.get("RANK", "0")) == 0
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

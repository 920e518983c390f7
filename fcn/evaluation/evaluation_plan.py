"""Plan of an evaluation: the network of a run, the images to evaluate it on, and the folder of the results."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from fcn import runs
from fcn.config import (
    ConfigError,
    DataConfig,
    EvaluateConfig,
    InferenceConfig,
    check_data,
    to_container,
    validate,
)
from fcn.config.overrides import values_by_key
from fcn.data.datasets import GPU_BATCH_SIZE, WholeImages
from fcn.evaluation.evaluator import Evaluation, evaluate, evaluation_images
from fcn.inference.predictor import Predictor, load
from fcn.models.device import device_name
from fcn.runs.atomic_files import sha256_of
from fcn.runs.checkpoints import find_checkpoint
from fcn.runs.provenance import provenance


@dataclass(frozen=True)
class EvaluationPlan:
    """A run with its network and the images to evaluate it on.

    Attributes:
        config: configuration of the command.
        checkpoint: checkpoint file of the network.
        checkpoint_sha256: SHA-256 of that file before it was loaded; if training replaces the file during the
            evaluation, the evaluation is recognised as outdated.
        data: data section of the run, with the overrides of the command.
        split: name of the list of images.
        output: folder of the results.
        predictor: the network with its inference settings.
        images: the images with their masks.
    """

    config: EvaluateConfig
    checkpoint: Path
    checkpoint_sha256: str
    data: DataConfig
    split: str
    output: Path
    predictor: Predictor
    images: WholeImages

    @property
    def batch_size(self) -> int:
        """Maximum number of images per batch."""
        return self.config.batch_size or (1 if self.predictor.network.device.type == "cpu" else GPU_BATCH_SIZE)

    def evaluate(self, advance: Callable[[int], object] = lambda num_images: None) -> Evaluation:
        """Evaluate the images; `advance` is called after each batch with its number of images."""
        return evaluate(
            self.predictor,
            self.images,
            batch_size=self.batch_size,
            widths=sorted(set(self.config.boundary_widths)),
            worst=self.config.worst,
            advance=advance,
        )

    def facts(self) -> dict[str, Any]:
        """Return the run, the data, the settings and the provenance of the evaluation, for evaluation.json."""
        device = device_name(self.predictor.network.device)
        return {
            "run": self.config.run,
            "checkpoint": str(self.checkpoint),
            "checkpoint_sha256": self.checkpoint_sha256,
            "data": to_container(self.data),
            "split": self.split,
            "settings": {
                **to_container(self.predictor.settings),
                "batch_size": self.batch_size,
                "device": device,
            },
            **provenance(),
        }


def plan_evaluation(config: EvaluateConfig, overrides: Sequence[str]) -> EvaluationPlan:
    """Load the network, find the images, and check everything that can be checked before the first image is read.

    Args:
        config: configuration of the command.
        overrides: overrides of the command; they decide which keys of `config.data` replace those of the run.

    Raises:
        ConfigError: if the classes differ, or the output is not a writable folder.
        CheckpointError: if the run has no checkpoint that loads.
        DataError: if the dataset or the split is missing.
    """
    checkpoint = find_checkpoint(config.run)
    sha256 = sha256_of(checkpoint)
    settings = InferenceConfig(**{entry.name: getattr(config, entry.name) for entry in fields(InferenceConfig)})
    predictor = load(checkpoint, settings)
    data = merge_data(predictor.network.config.data, config.data, overrides)
    check_data(data)
    _check_fold(predictor.network.config.data, data)
    split = config.split or data.validation_split
    output = Path(config.output) if config.output else default_output(Path(config.run or ""), split)
    _check_folder(output)
    images = evaluation_images(data, split, classes=predictor.classes)
    return EvaluationPlan(config, checkpoint, sha256, data, split, output, predictor, images)


def _check_fold(run: DataConfig, data: DataConfig) -> None:
    """Check that a fold is that of the run, because the network was trained on the others."""
    if data.fold is None:
        return
    for key in ("fold", "folds", "split_seed"):
        value, own = getattr(data, key), getattr(run, key)
        if value != own:
            raise ConfigError(
                f"data.{key} (={value}) must be that of the run (={'null' if own is None else own}), which was trained "
                "on the other images of data.train_split; omit it, or use data.fold=null"
            )


def merge_data(run: DataConfig, composed: DataConfig, overrides: Sequence[str]) -> DataConfig:
    """Return the data section of a run with the overridden keys changed, or the composed one after data=... .

    Args:
        run: data section of the run.
        composed: data section of the command.
        overrides: overrides of the command, such as `data=voc` or `data.root=x`.
    """
    keys = values_by_key(overrides)
    if "data" in keys:
        return composed
    merged, other = OmegaConf.create(to_container(run)), OmegaConf.create(to_container(composed))
    for key in keys:
        group, _, name = key.partition(".")
        if group == "data":
            OmegaConf.update(merged, name, OmegaConf.select(other, name))
    return validate(merged, type(run))


def default_output(run: Path, split: str) -> Path:
    """Return <run>/evaluation/<split>, or for a checkpoint file <folder>/<name>-evaluation/<split>."""
    return (run / runs.EVALUATION if run.is_dir() else run.with_name(f"{run.stem}-evaluation")) / split


def _check_folder(output: Path) -> None:
    """Check before the evaluation, which may take an hour, that its results can be written."""
    existing = next(folder for folder in (output, *output.absolute().parents) if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise ConfigError(f"output (={output}) must be a writable folder, but {existing} is not; use another")

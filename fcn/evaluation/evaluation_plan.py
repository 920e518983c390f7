"""Plan of an evaluation: the networks of one run or several, the images, and the folder of the results."""

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
from fcn.evaluation.trained_images import Trained, check_divisions, check_fold
from fcn.inference.predictor import Predictor, load
from fcn.models.device import device_name
from fcn.runs.atomic_files import sha256_of
from fcn.runs.checkpoints import find_checkpoint
from fcn.runs.provenance import provenance


@dataclass(frozen=True)
class EvaluationPlan:
    """A run with its network, or several runs, and the images to evaluate them on.

    Attributes:
        config: configuration of the command.
        checkpoints: checkpoint files of the networks by their SHA-256 before they were loaded; if training replaces a
            file during the evaluation, the evaluation is recognised as outdated.
        data: data section of the first run, with the overrides of the command.
        split: name of the list of images.
        output: folder of the results.
        predictor: the networks with their inference settings.
        images: the images with their masks.
    """

    config: EvaluateConfig
    checkpoints: Sequence[tuple[Path, str]]
    data: DataConfig
    split: str
    output: Path
    predictor: Predictor
    images: WholeImages

    @property
    def batch_size(self) -> int:
        """Maximum number of images per batch."""
        return self.config.batch_size or (1 if self.predictor.network.device.type == "cpu" else GPU_BATCH_SIZE)

    @property
    def origin(self) -> str:
        """Text that names the checkpoints."""
        names = ", ".join(str(path) for path, _ in self.checkpoints)
        count = len(self.checkpoints)
        return f"checkpoint {names}" if count == 1 else f"average of {count} checkpoints: {names}"

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
        """Return the run, the data, the settings and the provenance of the evaluation, for evaluation.json.

        With several runs, `run`, `checkpoint` and `checkpoint_sha256` are lists.
        """
        paths, hashes = ([str(each[part]) for each in self.checkpoints] for part in (0, 1))
        device = device_name(self.predictor.network.device)
        return {
            "run": self.config.run,
            "checkpoint": paths if len(paths) > 1 else paths[0],
            "checkpoint_sha256": hashes if len(hashes) > 1 else hashes[0],
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
    """Load the networks, find the images, and check everything that can be checked before the first image is read.

    Args:
        config: configuration of the command.
        overrides: overrides of the command; they decide which keys of `config.data` replace those of the run.

    Raises:
        ConfigError: if the classes differ, a network was trained on the images, or the output is not a writable folder,
            or missing for several runs.
        CheckpointError: if a run has no checkpoint that loads.
        DataError: if the dataset or the split is missing.
    """
    if isinstance(config.run, list) and config.output is None:
        raise ConfigError(
            f"output (=null) must be a folder for the results of {len(config.run)} runs together; use output=ensemble"
        )
    paths = [find_checkpoint(run) for run in (config.run if isinstance(config.run, list) else [config.run])]
    checkpoints = [(path, sha256_of(path)) for path in paths]
    settings = InferenceConfig(**{entry.name: getattr(config, entry.name) for entry in fields(InferenceConfig)})
    predictor = load(paths, settings)
    data = merge_data(predictor.network.config.data, config.data, overrides)
    check_data(data)
    _check_validation_split(data, config.split, overrides)
    split = config.split or data.validation_split
    trained = [Trained(path, network.config.data) for path, network in zip(paths, predictor.networks, strict=True)]
    check_divisions(trained, data, split)
    output = Path(config.output or default_output(Path(str(config.run)), split))
    _check_folder(output)
    images = evaluation_images(data, split, classes=predictor.classes)
    check_fold(trained, data, split, images)
    return EvaluationPlan(config, checkpoints, data, split, output, predictor, images)


def _check_validation_split(data: DataConfig, split: str | None, overrides: Sequence[str]) -> None:
    """Check that `data.val_split` is not overridden if a fold is evaluated in its place."""
    if data.fold is not None and split is None and "data.val_split" in values_by_key(overrides):
        raise ConfigError(
            f"data.val_split (={data.val_split}) has no effect with data.fold (={data.fold}), whose images are "
            f"evaluated; use split={data.val_split}"
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

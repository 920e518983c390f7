"""Evaluate a trained run on a split: whole images at native size, each exactly once.

    python scripts/evaluate.py run=outputs/<name>/<time> data.root=<folder of VOCdevkit> split=val

With a folder of runs, such as a sweep, every run is evaluated in turn.

Tables, confusion matrices and pictures are written to <run>/evaluation/<split>, all of them or, after an error, none.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from fcn import errors, runs
from fcn.cli.hydra_entry import run_command
from fcn.comparison.run_records import find_runs
from fcn.config import ConfigError, DataConfig, InferenceConfig, setting, to_container, validate
from fcn.config.overrides import values_by_key
from fcn.runs.atomic_files import sha256_of
from fcn.runs.provenance import provenance

if TYPE_CHECKING:  # these import torch; at run time they are imported where used, not for --help and completion
    from fcn.data.datasets import WholeImages
    from fcn.evaluation.evaluator import Evaluation
    from fcn.inference.predictor import Predictor

GPU_BATCH_SIZE = 8
SCORES = {
    "pixel_accuracy": "pixel accuracy",
    "mean_accuracy": "mean accuracy",
    "mean_iou": "mean IoU",
    "fw_iou": "frequency-weighted IoU",
}


@dataclass(kw_only=True, slots=True)
class EvaluateConfig(InferenceConfig):
    run: str | None = setting(None, "run directory (its best checkpoint), folder of runs, or checkpoint file; required")
    data: DataConfig = field(default_factory=DataConfig)
    split: str | None = setting(None, "list of images in ImageSets/Segmentation; null: data.val_split")
    output: str | None = setting(
        None, "folder of the results; null: evaluation/<split> in the run, or next to the file"
    )
    batch_size: int | None = setting(
        None, "images of equal size evaluated at once; null: 1 on the CPU, 8 on a GPU", low=1
    )
    boundary_widths: list[int] = setting([1, 2, 4, 8, 16], "widths in pixels of the scored bands along outlines", low=1)
    worst: int = setting(12, "number of images of lowest mean IoU to draw", low=0)


@dataclass(frozen=True)
class EvaluationJob:
    """A run with its data and settings, ready to be evaluated."""

    run: str
    checkpoint: Path
    checkpoint_sha256: str
    data: DataConfig
    split: str
    output: Path
    predictor: Predictor
    images: WholeImages
    batch_size: int
    widths: list[int]
    worst: int


def configs_of_runs(config: EvaluateConfig) -> list[EvaluateConfig]:
    """Return the configuration, or one for each run if `run` is a folder of runs, such as a sweep.

    Raises:
        ConfigError: if the results of several runs would be written to one folder.
    """
    folder = Path(config.run or "")
    if not config.run or not folder.is_dir() or (folder / runs.CONFIG).is_file():
        return [config]
    run_dirs = find_runs([folder])
    if config.output is not None and len(run_dirs) > 1:
        raise ConfigError(
            f"output (={config.output}) is one folder, and run (={config.run}) holds {len(run_dirs)} runs; leave it out"
        )
    return [replace(config, run=str(run)) for run in run_dirs] or [config]


def prepare_evaluation(config: EvaluateConfig, overrides: Sequence[str]) -> EvaluationJob:
    """Load the network, find the images, and check everything that can be checked before the first image is read.

    Args:
        config: configuration of the command.
        overrides: overrides of the command, which decide how far its `data` applies.

    Raises:
        ConfigError: if no run is given, the classes differ, or the output is not a writable folder.
        CheckpointError: if the run has no checkpoint that loads.
        DataError: if the dataset or the split is missing.
    """
    from fcn.evaluation.evaluator import evaluation_images
    from fcn.inference import predictor as inference
    from fcn.runs.checkpoints import find_checkpoint

    if not config.run:
        raise ConfigError("run (=null) must be a run directory or a checkpoint; use run=outputs/<name>/<time>")
    checkpoint = find_checkpoint(config.run)
    settings = InferenceConfig(**{entry.name: getattr(config, entry.name) for entry in fields(InferenceConfig)})
    sha256 = sha256_of(
        checkpoint
    )  # before it is read, so that the evaluation is stale if training replaces it meanwhile
    predictor = inference.load(checkpoint, settings)
    data = data_of(predictor.network.config.data, config.data, overrides)
    split = config.split or data.val_split
    output = Path(config.output) if config.output else default_output(Path(config.run), split)
    _check_folder(output)
    images = evaluation_images(data, split, classes=predictor.classes)
    batch_size = config.batch_size or (1 if predictor.network.device.type == "cpu" else GPU_BATCH_SIZE)
    widths = sorted(set(config.boundary_widths))
    return EvaluationJob(
        config.run, checkpoint, sha256, data, split, output, predictor, images, batch_size, widths, config.worst
    )


def data_of(run: DataConfig, composed: DataConfig, overrides: Sequence[str]) -> DataConfig:
    """Return the data section of the run with the overridden keys changed, or the composed one after data=... .

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
    return validate(merged, DataConfig)


def default_output(run: Path, split: str) -> Path:
    """Return <run>/evaluation/<split>, or for a checkpoint file <folder>/<name>-evaluation/<split>."""
    return (run / runs.EVALUATION if run.is_dir() else run.with_name(f"{run.stem}-evaluation")) / split


def _check_folder(output: Path) -> None:
    """Check before the evaluation, which may take an hour, that its results can be written."""
    there = next(folder for folder in (output, *output.absolute().parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise ConfigError(f"output (={output}) must be a writable folder, but {there} is not; use another")


def run_job(job: EvaluationJob) -> Evaluation:
    """Evaluate the images, with a progress bar on a terminal."""
    from fcn.evaluation.evaluator import evaluate

    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        bar = progress.add_task(f"evaluating {job.split}", total=len(job.images))
        return evaluate(
            job.predictor,
            job.images,
            batch_size=job.batch_size,
            widths=job.widths,
            worst=job.worst,
            advance=lambda num_images: progress.advance(bar, num_images),
        )


def facts(job: EvaluationJob) -> dict[str, Any]:
    """Return the run, the data, the settings and the origin of an evaluation, for evaluation.json."""
    from fcn.models.device import device_name

    settings = {
        **to_container(job.predictor.settings),
        "batch_size": job.batch_size,
        "device": device_name(job.predictor.network.device),
    }
    return {
        "run": job.run,
        "checkpoint": str(job.checkpoint),
        "checkpoint_sha256": job.checkpoint_sha256,
        "data": to_container(job.data),
        "split": job.split,
        "settings": settings,
        **provenance(),
    }


def report(console: Console, job: EvaluationJob, evaluation: Evaluation) -> None:
    """Print the tables, the checkpoint and, last, the folder of the results."""
    from fcn.evaluation.metrics import segmentation_scores

    images = f"{len(evaluation.names)} images of {job.split}"
    values = segmentation_scores(evaluation.confusion)
    console.print(_table(["score", images], [[title, _share(values[key])] for key, title in SCORES.items()]))
    rows = [
        [row["class"], _share(row["iou"]), _share(row["accuracy"]), f"{row['target_pixels']:,}"]
        for row in evaluation.class_rows()
    ]
    console.print(_table(["class", "IoU", "accuracy", "target pixels"], rows))
    if evaluation.widths:
        rows = [
            [f"{row['width']} px", _share(row["mean_iou"]), _share(row["pixel_accuracy"]), f"{row['pixels']:,}"]
            for row in evaluation.boundary_rows()
        ]
        console.print(_table(["along outlines", "mean IoU", "pixel accuracy", "pixels"], rows))
    console.print(f"of {job.checkpoint}, in", markup=False, highlight=False, soft_wrap=True)
    console.print(str(job.output), markup=False, highlight=False, soft_wrap=True)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(headings[0])
    for heading in headings[1:]:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(escape(row[0]), *row[1:])
    return table


def _share(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.4f}"


def evaluate_run(config: EvaluateConfig) -> None:
    from fcn.evaluation.evaluation_files import write_evaluation

    job = prepare_evaluation(config, HydraConfig.get().overrides.task)
    evaluation = run_job(job)
    write_evaluation(job.output, evaluation, facts(job))
    report(Console(), job, evaluation)


def evaluate_all(configs: Sequence[EvaluateConfig]) -> None:
    """Evaluate all runs, and name those that fail. A missing checkpoint is an error only if all runs lack one.

    Raises:
        ConfigError: at the end, if a run failed, or none has a checkpoint.
    """
    failures: list[bool] = []  # whether the run has a checkpoint
    for config in configs:
        try:
            evaluate_run(config)
        except Exception as error:  # any failure of one run leaves the other runs to be evaluated
            if errors.WANTS_TRACEBACK:
                raise
            print(f"left out: {config.run}: {errors.explain(error)}", file=sys.stderr)
            failures.append(runs.checkpoint_of(Path(config.run or "")) is not None)
    if any(failures) or len(failures) == len(configs):
        raise ConfigError(f"{len(failures)} of {len(configs)} runs are not evaluated; see the lines above")


def main() -> None:
    def task(config: EvaluateConfig) -> None:
        configs = configs_of_runs(config)
        if len(configs) == 1:
            evaluate_run(configs[0])
        else:
            evaluate_all(configs)

    run_command(task, config_name="evaluate", schema=EvaluateConfig)

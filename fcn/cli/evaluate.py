"""Scores a trained run on a split: whole images at native size, each exactly once.

    python scripts/evaluate.py run=outputs/<name>/<time> data.root=<folder of VOCdevkit> split=val

With a folder of runs, such as a sweep's, each of them in turn.

Writes tables, confusion matrices and pictures to <run>/evaluation/<split>, all of them or, after an error, none.
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

if TYPE_CHECKING:  # what imports torch, at run time where it is used: not for --help and completion
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
    run: str | None = setting(
        None, "run directory (its best checkpoint), folder of runs, or checkpoint file; must be given"
    )
    data: DataConfig = field(default_factory=DataConfig)
    split: str | None = setting(None, "a list in ImageSets/Segmentation; null: data.val_split")
    output: str | None = setting(None, "folder of the files; null: evaluation/<split> in the run, or beside the file")
    batch_size: int | None = setting(None, "images of equal size at once; null: 1 on the CPU, 8 on a GPU", low=1)
    boundary_widths: list[int] = setting([1, 2, 4, 8, 16], "bands along outlines that are scored, pixels", low=1)
    worst: int = setting(12, "images of lowest mean IoU to draw; 0 for none", low=0)


@dataclass(frozen=True)
class Job:
    """What is evaluated, and where the files go."""

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


def each_run(config: EvaluateConfig) -> list[EvaluateConfig]:
    """The configuration, or where `run` is a folder of runs, as that of a sweep, one for each of those.

    Raises:
        ConfigError: if the files of several runs would go into one folder.
    """
    folder = Path(config.run or "")
    if not config.run or not folder.is_dir() or (folder / runs.CONFIG).is_file():
        return [config]
    found = find_runs([folder])
    if config.output is not None and len(found) > 1:
        raise ConfigError(
            f"output (={config.output}) is one folder, and run (={config.run}) holds {len(found)} runs; leave it out"
        )
    return [replace(config, run=str(run)) for run in found] or [config]


def prepare(config: EvaluateConfig, overrides: Sequence[str]) -> Job:
    """Everything that can be checked before the first image is read.

    Args:
        config: as composed; `data` counts as far as `overrides` say.
        overrides: what was typed.

    Raises:
        ConfigError: if no run is named, the classes differ, or the output cannot be a folder.
        CheckpointError: if the run has no checkpoint, or it does not load.
        DataError: if data set or split are not there.
    """
    from fcn.evaluation.evaluator import evaluation_images
    from fcn.inference import predictor as inference
    from fcn.runs.checkpoints import find_checkpoint

    if not config.run:
        raise ConfigError("run (=null) must be a run directory or a checkpoint; use run=outputs/<name>/<time>")
    checkpoint = find_checkpoint(config.run)
    settings = InferenceConfig(**{entry.name: getattr(config, entry.name) for entry in fields(InferenceConfig)})
    sha256 = sha256_of(checkpoint)  # before it is read: if training replaces it meanwhile, this evaluation is stale
    predictor = inference.load(checkpoint, settings)
    data = data_of(predictor.network.config.data, config.data, overrides)
    split = config.split or data.val_split
    output = Path(config.output) if config.output else default_output(Path(config.run), split)
    _check_folder(output)
    images = evaluation_images(data, split, classes=predictor.classes)
    batch_size = config.batch_size or (1 if predictor.network.device.type == "cpu" else GPU_BATCH_SIZE)
    widths = sorted(set(config.boundary_widths))
    return Job(config.run, checkpoint, sha256, data, split, output, predictor, images, batch_size, widths, config.worst)


def data_of(run: DataConfig, composed: DataConfig, overrides: Sequence[str]) -> DataConfig:
    """The run's data section; the composed one after data=..., else with the keys that were typed changed.

    Args:
        run: of the run's checkpoint.
        composed: of the command line.
        overrides: what was typed, such as `data=voc` or `data.root=x`.
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
    """<run>/evaluation/<split>; for a checkpoint <folder>/<name>-evaluation/<split>."""
    return (run / runs.EVALUATION if run.is_dir() else run.with_name(f"{run.stem}-evaluation")) / split


def _check_folder(output: Path) -> None:
    """Known before an hour of work rather than after it."""
    there = next(folder for folder in (output, *output.absolute().parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise ConfigError(f"output (={output}) must be a folder that can be written, which {there} is not; use another")


def run_job(job: Job) -> Evaluation:
    """The evaluation, with a progress bar on a terminal."""
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


def facts(job: Job) -> dict[str, Any]:
    """What was evaluated and how, for evaluation.json."""
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


def report(console: Console, job: Job, evaluation: Evaluation) -> None:
    """Print the tables, of which checkpoint they are, and, last, the folder of the files."""
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

    job = prepare(config, HydraConfig.get().overrides.task)
    evaluation = run_job(job)
    write_evaluation(job.output, evaluation, facts(job))
    report(Console(), job, evaluation)


def evaluate_all(configs: Sequence[EvaluateConfig]) -> None:
    """Every run that can be; the others are named. To lack a checkpoint is no mistake unless all do.

    Raises:
        ConfigError: at the end, if a run had an error, or none has a checkpoint.
    """
    left_out: list[bool] = []  # whether for a mistake
    for config in configs:
        try:
            evaluate_run(config)
        except Exception as error:  # of many kinds, for each of which the other runs are evaluated all the same
            if errors.WANTS_TRACEBACK:
                raise
            print(f"left out: {config.run}: {errors.explain(error)}", file=sys.stderr)
            left_out.append(runs.checkpoint_of(Path(config.run or "")) is not None)
    if any(left_out) or len(left_out) == len(configs):
        raise ConfigError(f"{len(left_out)} of {len(configs)} runs are not evaluated; see the lines above")


def main() -> None:
    def task(config: EvaluateConfig) -> None:
        configs = each_run(config)
        if len(configs) == 1:
            evaluate_run(configs[0])
        else:
            evaluate_all(configs)

    run_command(task, config_name="evaluate", schema=EvaluateConfig)

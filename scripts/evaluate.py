"""Scores a trained run on a split: whole images at native size, each exactly once.

    python scripts/evaluate.py run=outputs/<name>/<time> data.root=<folder of VOCdevkit> split=val

With a folder of runs, such as a sweep's, each of them in turn.

Writes tables, confusion matrices and pictures to <run>/evaluation/<split>, all of them or, after an error, none.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from fcn import inference, runs
from fcn.boundary import boundary_figure
from fcn.cli import WANTS_TRACEBACK, explain, run_command
from fcn.comparison.collect import find_runs
from fcn.comparison.evaluations import checkpoint_of, sha256_of
from fcn.config import ConfigError, DataConfig, InferenceConfig, setting, to_container, typed
from fcn.data.module import WholeImages
from fcn.evaluation import Evaluation, evaluate, find_images
from fcn.inference import Predictor
from fcn.metrics import scores
from fcn.provenance import provenance
from fcn.recording import device_name
from fcn.visualization import confusion_figure, panels, save_png

GPU_BATCH_SIZE = 8
SUMMARY = "evaluation.json"
FILES = (
    "per_class.csv", "per_image.csv", "confusions.npz", "confusion_matrix.png", "boundary.png", "worst.png", SUMMARY,
)  # fmt: skip
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
    if config.run is None or not folder.is_dir() or (folder / runs.CONFIG).is_file():
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
    if config.run is None:
        raise ConfigError("run (=null) must be a run directory or a checkpoint; use run=outputs/<name>/<time>")
    checkpoint = inference.find_checkpoint(config.run)
    settings = InferenceConfig(**{entry.name: getattr(config, entry.name) for entry in fields(InferenceConfig)})
    sha256 = sha256_of(checkpoint)  # before it is read: if training replaces it meanwhile, this evaluation is stale
    predictor = inference.load(checkpoint, settings)
    data = data_of(predictor.task.config.data, config.data, overrides)
    split = config.split or data.val_split
    output = Path(config.output) if config.output else default_output(Path(config.run), split)
    _check_folder(output)
    images = find_images(data, split, classes=predictor.classes)
    batch_size = config.batch_size or (1 if predictor.task.device.type == "cpu" else GPU_BATCH_SIZE)
    widths = sorted(set(config.boundary_widths))
    return Job(config.run, checkpoint, sha256, data, split, output, predictor, images, batch_size, widths, config.worst)


def data_of(run: DataConfig, composed: DataConfig, overrides: Sequence[str]) -> DataConfig:
    """The run's data section; the composed one after data=..., else with the keys that were typed changed.

    Args:
        run: of the run's checkpoint.
        composed: of the command line.
        overrides: what was typed, such as `data=voc` or `data.root=x`.
    """
    keys = [str(override.key_or_group) for override in OverridesParser.create().parse_overrides(list(overrides))]
    if "data" in keys:
        return composed
    merged, other = OmegaConf.create(to_container(run)), OmegaConf.create(to_container(composed))
    for key in keys:
        group, _, name = key.partition(".")
        if group == "data":
            OmegaConf.update(merged, name, OmegaConf.select(other, name))
    return typed(merged, DataConfig)


def default_output(run: Path, split: str) -> Path:
    """<run>/evaluation/<split>; for a checkpoint <folder>/<name>-evaluation/<split>."""
    return (run / "evaluation" if run.is_dir() else run.with_name(f"{run.stem}-evaluation")) / split


def _check_folder(output: Path) -> None:
    """Known before an hour of work rather than after it."""
    there = next(folder for folder in (output, *output.absolute().parents) if folder.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise ConfigError(f"output (={output}) must be a folder that can be written, which {there} is not; use another")


def run_job(job: Job) -> Evaluation:
    """The evaluation, with a progress bar on a terminal."""
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


def summary(job: Job, evaluation: Evaluation) -> dict[str, Any]:
    """Content of evaluation.json; a score that does not exist is null, since JSON has no NaN."""
    settings = {
        **to_container(job.predictor.settings),
        "batch_size": job.batch_size,
        "device": device_name(job.predictor.task.device),
    }
    return {
        "run": job.run,
        "checkpoint": str(job.checkpoint),
        "checkpoint_sha256": job.checkpoint_sha256,
        "data": to_container(job.data),
        "split": job.split,
        "settings": settings,
        "num_images": len(evaluation.names),
        "scores": _or(None, scores(evaluation.confusion)),
        "iou": {row["class"]: row["iou"] for row in (_or(None, row) for row in evaluation.class_rows())},
        "boundary": [_or(None, row) for row in evaluation.boundary_rows()],
        **provenance(),
    }


def write(job: Job, evaluation: Evaluation) -> None:
    """Write all files into a folder beside the output and move them there when all are done.

    Files of an evaluation that lay there before are replaced, or removed where this one has no such file.
    """
    job.output.mkdir(parents=True, exist_ok=True)
    unfinished = job.output / f".{uuid.uuid4().hex}"
    unfinished.mkdir()
    try:
        _write_tables(unfinished, job, evaluation)
        _write_pictures(unfinished, evaluation)
        for name in FILES:
            if (unfinished / name).exists():
                os.replace(unfinished / name, job.output / name)
            else:
                (job.output / name).unlink(missing_ok=True)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _write_tables(folder: Path, job: Job, evaluation: Evaluation) -> None:
    content = json.dumps(summary(job, evaluation), indent=2, allow_nan=False)
    (folder / SUMMARY).write_text(content + "\n", encoding="utf-8")
    _write_csv(folder / "per_class.csv", evaluation.class_rows())
    _write_csv(folder / "per_image.csv", evaluation.image_rows())
    names, confusions = np.array(evaluation.names), evaluation.confusions.numpy()
    np.savez_compressed(folder / "confusions.npz", names=names, confusions=confusions)


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A cell is empty where a score does not exist."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(_or("", row) for row in rows)


def _or(stand_in: str | None, row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with `stand_in` for every NaN."""
    return {key: stand_in if value != value else value for key, value in row.items()}  # NaN differs from itself


def _write_pictures(folder: Path, evaluation: Evaluation) -> None:
    classes = evaluation.classes
    save_png(confusion_figure(evaluation.confusion.numpy(), classes), folder / "confusion_matrix.png")
    if evaluation.widths:
        mean_ious = [row["mean_iou"] for row in evaluation.boundary_rows()]
        whole = scores(evaluation.confusion)["mean_iou"]
        save_png(boundary_figure(evaluation.widths, mean_ious, whole=whole), folder / "boundary.png")
    if evaluation.worst:
        samples = [(one.image, one.target, one.prediction) for one in evaluation.worst]
        names = [evaluation.names[one.index] for one in evaluation.worst]
        save_png(panels(samples, classes, names=names), folder / "worst.png")


def report(console: Console, job: Job, evaluation: Evaluation) -> None:
    """Print the tables and, last, the folder of the files."""
    images = f"{len(evaluation.names)} images of {job.split}"
    values = scores(evaluation.confusion)
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
    job = prepare(config, HydraConfig.get().overrides.task)
    evaluation = run_job(job)
    write(job, evaluation)
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
            if WANTS_TRACEBACK:
                raise
            print(f"left out: {config.run}: {explain(error, EvaluateConfig)}", file=sys.stderr)
            left_out.append(checkpoint_of(Path(config.run or "")) is not None)
    if any(left_out) or len(left_out) == len(configs):
        raise ConfigError(f"{len(left_out)} of {len(configs)} runs are not evaluated; see the lines above")


def main() -> None:
    def task(composed: DictConfig) -> None:
        configs = each_run(typed(composed, EvaluateConfig))
        if len(configs) == 1:
            evaluate_run(configs[0])
        else:
            evaluate_all(configs)

    run_command(task, config_name="evaluate", schema=EvaluateConfig)


if __name__ == "__main__":
    main()

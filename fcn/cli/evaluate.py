"""Evaluate a trained run on a split: whole images at native size, each exactly once.

    python scripts/evaluate.py run=outputs/<name>/<time> data.root=<folder of VOCdevkit> split=val

With a folder of runs, such as a sweep, every run is evaluated in turn. With a list, 'run=[<run>,<run>]', the average of
the class probabilities of all its runs is evaluated; the results are written to the folder of output=.

Tables, confusion matrices and pictures are written to <run>/evaluation/<split>; none is written after an error.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from hydra.errors import HydraException
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Table

from fcn import errors, runs
from fcn.cli.hydra_entry import given_overrides, run_command
from fcn.cli.run_lists import chosen_runs, runs_below
from fcn.config import ConfigError, EvaluateConfig
from fcn.config.overrides import parse_overrides
from fcn.errors import UserError
from fcn.runs.run_lookup import LATEST, find_run

if TYPE_CHECKING:  # these import torch, which --help and completion do not need
    from fcn.evaluation.evaluation_plan import EvaluationPlan
    from fcn.evaluation.evaluator import Evaluation

SCORES = {
    "pixel_accuracy": "pixel accuracy",
    "mean_accuracy": "mean accuracy",
    "mean_iou": "mean IoU",
    "fw_iou": "frequency-weighted IoU",
}


def configs_of_runs(config: EvaluateConfig) -> list[EvaluateConfig]:
    """Return the configuration, or one for each run if `run` is a folder of runs, such as a sweep.

    Raises:
        ConfigError: if the results of several runs would be written to one folder.
    """
    chosen = chosen_runs(config.run)
    if not chosen or isinstance(chosen, list):
        return [replace(config, run=chosen)]
    run_dirs = runs_below(Path(chosen))
    if config.output is not None and len(run_dirs) > 1:
        raise ConfigError(
            f"output (={config.output}) is one folder, and run (={config.run}) holds {len(run_dirs)} runs; leave it out"
        )
    return [replace(config, run=str(run)) for run in run_dirs] or [replace(config, run=chosen)]


def evaluate_run(config: EvaluateConfig) -> None:
    """Evaluate one run with a progress bar, write the files and print the tables."""
    from fcn.evaluation.evaluation_files import write_evaluation
    from fcn.evaluation.evaluation_plan import plan_evaluation
    from fcn.models.device import keep_freed_memory

    plan = plan_evaluation(config, given_overrides())
    keep_freed_memory(plan.predictor.network.device)
    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        bar = progress.add_task(f"evaluating {plan.split}", total=len(plan.images))
        evaluation = plan.evaluate(advance=lambda num_images: progress.advance(bar, num_images))
    write_evaluation(plan.output, evaluation, plan.facts())
    print_evaluation(Console(), plan, evaluation)


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
            failures.append(runs.checkpoint_of(Path(str(config.run))) is not None)
    if any(failures) or len(failures) == len(configs):
        raise ConfigError(f"{len(failures)} of {len(configs)} runs are not evaluated; see the lines above")


def print_evaluation(console: Console, plan: EvaluationPlan, evaluation: Evaluation) -> None:
    """Print the tables, the checkpoint and, last, the folder of the results."""
    from fcn.evaluation.metrics import segmentation_scores

    images = f"{len(evaluation.names)} images of {plan.split}"
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
    for line in (f"{plan.origin}, results in", str(plan.output)):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(headings[0])
    for heading in headings[1:]:
        table.add_column(heading, justify="right")
    for row in rows:
        table.add_row(escape(row[0]), *row[1:])
    return table


def _share(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.4f}"


def main() -> None:
    def task(config: EvaluateConfig) -> None:
        configs = configs_of_runs(config)
        if len(configs) == 1:
            evaluate_run(configs[0])
        else:
            evaluate_all(configs)

    run_keys = {"run": _latest_run}
    run_command(task, config_name="evaluate", schema=EvaluateConfig, implied=_data_of_run, run_keys=run_keys)


def _latest_run(given: str) -> str:
    """Return the newest run or sweep for `latest`; of another folder, all runs are evaluated."""
    return find_run("run", given, sweeps=True) if given == LATEST else given


def _first_run(text: str) -> str:
    """Return the first run of the value of `run`, whose dataset is that of a list."""
    if not text.startswith("["):
        return text
    with contextlib.suppress(HydraException, UserError):  # reported later
        chosen = chosen_runs(parse_overrides([f"run={text}"])[0].value(), report=lambda line: None)
        return str(chosen[0] if isinstance(chosen, list) else chosen)
    return ""


def _data_of_run(values: Mapping[str, str]) -> list[str]:
    """Return the option `data` of the run, whose keys can then be overridden; nothing for a folder of runs."""
    path = Path(_first_run(values.get("run") or ""))
    run_dir = path.parents[1] if path.suffix == ".ckpt" and len(path.parents) > 1 else path
    return [option for option in runs.chosen_options(run_dir) if option.startswith("data=")]

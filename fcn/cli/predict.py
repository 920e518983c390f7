"""Predict masks, overlays and probabilities for images, or VOC's test set for the evaluation server.

    python scripts/predict.py run=outputs/<name>/<time> input=photos output=predictions
    python scripts/predict.py 'run=[<run>,<run>]' input=photos output=predictions

The exit status is 0 if every image was predicted, otherwise 1; all problems are listed.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import Progress

from fcn.cli.hydra_entry import run_command
from fcn.cli.run_lists import chosen_runs
from fcn.config import ConfigError, DataConfig, InferenceConfig, check_inference, setting
from fcn.config.choices import Choice, Exif
from fcn.config.command_schemas import RUNS, RunNames
from fcn.runs.run_lookup import find_run

if TYPE_CHECKING:
    from fcn.errors import DataError


class Competition(Choice):
    comp5 = "comp5"
    comp6 = "comp6"


@dataclass(kw_only=True, slots=True)
class PredictConfig(InferenceConfig):
    run: RunNames | None = setting(None, f"run directory (its best checkpoint) or checkpoint file; {RUNS}; required")
    input: str | None = setting(
        None, "image, folder, 'glob' (may contain **), or list in ImageSets/Segmentation (.txt); required"
    )
    output: str = setting("predictions", "folder for <name>.png, in the same subfolders as in input")
    exif: Exif | None = setting(
        None,
        "EXIF orientation of images; apply: turn them upright; ignore: read them as stored; null: as the run read its "
        "images, and apply if none of them had one",
    )
    softmax: bool = setting(False, "also write <name>_probabilities.npy, float16 [classes, height, width]")
    overlay: bool = setting(True, "also write <name>_overlay.jpg, the image overlaid with its classes")
    voc_submission: bool = setting(False, "also write results.tgz for VOC's evaluation server")
    competition: Competition = setting(
        Competition.comp6, "comp5: trained on VOC's images alone; comp6: also on others, such as ImageNet"
    )


def predict_files(config: PredictConfig) -> int:
    """Predict all images and return the exit status: 0 if every image was predicted, otherwise 1.

    Raises:
        ConfigError: if run or input is missing, input contains no image, or output could replace a file of value.
        DataError: if a split list is invalid.
        CheckpointError: if run has no checkpoint that loads.
        OSError: if output is not writable.
    """
    _check_config(config)
    # Imported here because they are slow to import; --help and the checks above do not need them.
    from fcn.inference import predicted_files
    from fcn.inference import predictor as inference
    from fcn.inference.image_files import find_sources
    from fcn.models.device import keep_freed_memory
    from fcn.runs.checkpoints import find_checkpoint

    chosen = chosen_runs(config.run)
    checkpoints = [find_checkpoint(run) for run in (chosen if isinstance(chosen, list) else [chosen])]
    folder = predicted_files.OutputFolder(Path(config.output), overlay=config.overlay, softmax=config.softmax)
    sources = find_sources(config.input or "", folder.root)
    folder.check(sources)
    predictor = inference.load(checkpoints, config)
    keep_freed_memory(predictor.network.device)
    uses = [_exif_of(config, n.config.data, path) for n, path in zip(predictor.networks, checkpoints, strict=True)]
    upright = _common_exif(uses) is Exif.apply
    if config.voc_submission:
        predicted_files.check_submission(sources, predictor.classes)
        (folder.root / predicted_files.ARCHIVE).unlink(missing_ok=True)
    folder.prepare(sources, predictor.classes)
    start = time.perf_counter()
    with predicted_files.write_predictions(predictor, sources, folder, upright=upright) as results:
        problems = _problems(results, len(sources))
    if config.voc_submission and not problems:
        folder.write_archive(sources, config.competition)
    return _report(config, len(sources), problems, seconds=time.perf_counter() - start)


def _exif_of(config: PredictConfig, data: DataConfig, checkpoint: Path) -> Exif:
    """Return the use of EXIF orientations: the same as in training, so that every command reads an image alike."""
    from fcn.runs.checkpoints import data_state

    chosen: Exif | None = config.exif or getattr(data, "exif", None)
    return chosen or (Exif.ignore if data_state(checkpoint).get("ignores_exif") else Exif.apply)


def _common_exif(uses: list[Exif]) -> Exif:
    if len(set(uses)) > 1:
        listed = ", ".join(f"run {number}: {use}" for number, use in enumerate(uses, start=1))
        raise ConfigError(f"exif (=null) must be set, because the runs use it differently ({listed}); use exif=apply")
    return uses[0]


def _check_config(config: PredictConfig) -> None:
    """Check the keys that can be checked without reading a file."""
    if not config.input:
        raise ConfigError("input (=null) must be an image, a folder, a glob or a split list; use input=photos")
    if not config.output:
        raise ConfigError("output (='') must be a folder; use output=predictions, or output=. for this one")
    check_inference(config)


def _problems(results: Iterator[DataError | None], count: int) -> int:
    """Print a line for every image that could not be read, and return their number."""
    console = Console(stderr=True, markup=False, emoji=False, highlight=False, soft_wrap=True)
    problems = 0
    with Progress(console=console, transient=True, disable=not sys.stderr.isatty()) as progress:
        for problem in progress.track(results, count, description="predicting"):
            if problem is not None:
                problems += 1
                console.print(str(problem))
    return problems


def _report(config: PredictConfig, count: int, problems: int, *, seconds: float) -> int:
    if problems:
        missing = "; results.tgz is not written, because masks are missing" if config.voc_submission else ""
        print(f"{problems} of {count} images could not be read{missing}", file=sys.stderr)
        return 1
    print(f"{count} images predicted in {seconds:.1f} s ({count / seconds:.1f} images/s), see {config.output}")
    return 0


def main() -> None:
    def task(config: PredictConfig) -> None:
        raise SystemExit(predict_files(config))

    run_command(task, config_name="predict", schema=PredictConfig, run_keys={"run": partial(find_run, "run")})

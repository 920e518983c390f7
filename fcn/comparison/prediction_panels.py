"""Predictions of every row's best run on the same images, side by side. Imports torch when panels are drawn."""

from __future__ import annotations

from rich.console import Console
from rich.progress import track

from fcn import runs
from fcn.comparison.grouping import RunGroup, differing_keys
from fcn.comparison.html_page import Picture
from fcn.comparison.run_comparison import RunComparison, validation_keys
from fcn.comparison.run_records import BEST, ComparisonError, RunRecord
from fcn.comparison.tables import format_score

MAX_COLUMNS = 6
"""Maximum number of groups drawn, so that they are legible side by side."""


def choose_runs(comparison: RunComparison) -> list[tuple[RunGroup, RunRecord]]:
    """Return the groups to draw, each with its run of highest best mean IoU.

    Groups validated on other images than the first are left out.

    Raises:
        ComparisonError: if no run has a checkpoint of a validated epoch.
    """
    chosen: list[tuple[RunGroup, RunRecord]] = []
    for group in comparison.groups:
        usable = [run for run in group.runs if (run.path / runs.BEST).is_file() and BEST in run.metrics]
        if chosen:
            reference = validation_keys(chosen[0][1])
            usable = [run for run in usable if not differing_keys([reference, validation_keys(run)])]
        if usable:
            chosen.append((group, max(usable, key=lambda run: run.metrics[BEST])))
    if not chosen:
        raise ComparisonError(f"panels need a run with {runs.BEST}; compare runs that were validated")
    return chosen[:MAX_COLUMNS]


def draw_prediction_panels(comparison: RunComparison, num_images: int) -> Picture:
    """Draw input, target, and the prediction of every group's best run for images evenly spread over the split.

    Args:
        comparison: the groups, drawn in the order of their rows.
        num_images: number of images, limited by the size of the split.

    Returns:
        The image, with a caption that names its runs.

    Raises:
        ComparisonError: see `choose_runs`.
        DataError: if the dataset is missing.
        CheckpointError: if a checkpoint cannot be loaded.
    """
    from fcn.evaluation.evaluator import evaluation_images
    from fcn.inference import predictor as inference
    from fcn.visualization.panels import Sample, draw_side_by_side

    chosen = choose_runs(comparison)
    data = runs.load_config(chosen[0][1].path).data
    images = evaluation_images(data, data.validation_split, classes=data.classes, prepare=False)
    count = min(num_images, len(images))
    places = [place * len(images) // count for place in range(count)]
    samples = [images[place] for place in places]
    arrays = [(one["image"].permute(1, 2, 0).contiguous().numpy(), one["mask"].numpy()) for one in samples]
    columns: dict[str, list[Sample]] = {}
    terminal = Console(stderr=True)
    for group, run in track(chosen, "predicting", console=terminal, transient=True, disable=not terminal.is_terminal):
        predictor = inference.load(run.path)
        columns[group.title] = [(image, target, predictor.predict(image)) for image, target in arrays]
    sheet = draw_side_by_side(columns, data.classes, names=[images.pairs[place].name for place in places])
    names = (f"row {group.number} {run.path.name} ({format_score(run.metrics[BEST])})" for group, run in chosen)
    omitted = len(comparison.groups) - len(chosen)
    note = f"; {omitted} more rows are not drawn" if omitted else ""
    caption = f"images evenly spread over {data.validation_split}; the run of best mean IoU of each row: "
    return Picture(sheet, f"{caption}{', '.join(names)}{note}")

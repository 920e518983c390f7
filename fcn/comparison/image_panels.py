"""The same images under the best run of every group. Only here is torch imported, when a sheet is asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fcn import runs
from fcn.comparison.contrasts import Comparison, validation_set
from fcn.comparison.run_collection import BEST, ComparisonError, Run
from fcn.comparison.seed_groups import Group, different_keys, title
from fcn.comparison.tables import number
from fcn.visualization.panels import Sample, draw_side_by_side

if TYPE_CHECKING:
    from torch import Tensor

MOST_COLUMNS = 6
"""Groups on a sheet, at most: more would not be read side by side."""


def panel_groups(comparison: Comparison) -> list[tuple[Group, Run]]:
    """Groups that are drawn, each with its run of highest best mean IoU: those on the first one's validation set.

    Raises:
        ComparisonError: if no run has a checkpoint of a validated epoch.
    """
    candidates = []
    for group in comparison.groups:
        kept = [run for run in group.runs if (run.path / runs.BEST).is_file() and BEST in run.metrics]
        if kept:
            candidates.append((group, max(kept, key=lambda run: run.metrics[BEST])))
    if not candidates:
        raise ComparisonError(f"panels need a run with {runs.BEST}, and none has it; compare runs that were validated")
    reference = validation_set(candidates[0][1])
    same = [(group, run) for group, run in candidates if not different_keys([reference, validation_set(run)])]
    return same[:MOST_COLUMNS]


def panel_sheet(
    comparison: Comparison, num_images: int, *, advance: Callable[[], object] = lambda: None
) -> tuple[Image.Image, str]:
    """Input, target, and what the best run of every group predicts, for images evenly spread over the set.

    Args:
        comparison: whose groups are drawn, in the order of the rows.
        num_images: rows of the sheet, at most as many as the set has.
        advance: called after every run.

    Returns:
        The sheet, and a line that says which runs and images are on it.

    Raises:
        ComparisonError: as `panel_groups`.
        DataError: if the data set is not there.
        CheckpointError: if a checkpoint does not load.
    """
    from fcn.evaluation.evaluator import evaluation_images
    from fcn.inference import predictor as inference

    chosen = panel_groups(comparison)
    config = runs.load_config(chosen[0][1].path)
    images = evaluation_images(replace(config.data, download=False), config.data.val_split, classes=config.data.classes)
    count = min(num_images, len(images))
    places = [place * len(images) // count for place in range(count)]
    samples = [_arrays(images[place]) for place in places]
    columns: dict[str, list[Sample]] = {}
    for group, run in chosen:
        predictor = inference.load(run.path)
        columns[title(group)] = [(image, target, predictor.predict(image)) for image, target in samples]
        advance()
    names = [images.pairs[place].name for place in places]
    return draw_side_by_side(columns, config.data.classes, names=names), _line(
        comparison, chosen, config.data.val_split
    )


def _arrays(sample: Mapping[str, Tensor]) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    return sample["image"].permute(1, 2, 0).contiguous().numpy(), sample["mask"].numpy()


def _line(comparison: Comparison, chosen: Sequence[tuple[Group, Run]], split: str) -> str:
    """Which runs are drawn, with the score that made them the best of their group, and how many rows are not."""
    drawn = ", ".join(f"row {group.number} {run.path.name} ({number(run.metrics[BEST])})" for group, run in chosen)
    missing = len(comparison.groups) - len(chosen)
    left_out = f"; {missing} more rows are not drawn" if missing else ""
    return f"images evenly spread over {split}; of every row the run of best mean IoU: {drawn}{left_out}"

"""Files of an evaluation: scores, tables, confusion matrices and figures."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fcn.evaluation.evaluator import Evaluation
from fcn.evaluation.metrics import segmentation_scores
from fcn.evaluation.scores import class_counts
from fcn.runs import CONFUSIONS, SCORES
from fcn.runs.atomic_files import replacing_files
from fcn.visualization.boundary_curve import draw_boundary_curve
from fcn.visualization.confusion_matrix import draw_confusion_matrix
from fcn.visualization.panels import draw_panels
from fcn.visualization.png_files import save_png

FILES = (
    "per_class.csv", "per_image.csv", CONFUSIONS, "confusion_matrix.png", "boundary.png", "worst.png", SCORES,
)  # fmt: skip


def write_evaluation(output: Path, evaluation: Evaluation, facts: Mapping[str, Any]) -> None:
    """Write all files of an evaluation, or none if writing fails.

    Files of an earlier evaluation are replaced, or removed if this one does not write them.

    Args:
        output: folder, created if necessary.
        evaluation: the counts.
        facts: what was evaluated and how; written to evaluation.json before the scores.
    """
    with replacing_files(output) as temporary:
        _write_tables(temporary, evaluation, facts)
        _write_pictures(temporary, evaluation)
        for name in FILES:
            if not (temporary / name).exists():
                (output / name).unlink(missing_ok=True)


def _write_tables(folder: Path, evaluation: Evaluation, facts: Mapping[str, Any]) -> None:
    content = json.dumps({**facts, **_summary(evaluation)}, indent=2, allow_nan=False)
    (folder / SCORES).write_text(content + "\n", encoding="utf-8")
    _write_csv(folder / "per_class.csv", evaluation.class_rows())
    _write_csv(folder / "per_image.csv", evaluation.image_rows())
    names, confusions = np.array(evaluation.names), evaluation.confusions.numpy()
    np.savez_compressed(folder / CONFUSIONS, names=names, confusions=confusions)


def _summary(evaluation: Evaluation) -> dict[str, Any]:
    """Return the content of evaluation.json; a score that does not exist is null, because JSON has no NaN."""
    return {
        "num_images": len(evaluation.names),
        "scores": _replace_nan(None, segmentation_scores(evaluation.confusion)),
        "iou": {row["class"]: row["iou"] for row in (_replace_nan(None, row) for row in evaluation.class_rows())},
        "boundary": [_replace_nan(None, row) for row in evaluation.boundary_rows()],
    }


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV; a score that does not exist is an empty cell."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(_replace_nan("", row) for row in rows)


def _replace_nan(value: str | None, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row with `value` in place of NaN."""
    return {key: value if cell != cell else cell for key, cell in row.items()}  # NaN differs from itself


def _write_pictures(folder: Path, evaluation: Evaluation) -> None:
    classes = evaluation.classes
    confusion = evaluation.confusion.numpy()
    matrix = draw_confusion_matrix(confusion, classes, class_counts(confusion).iou())
    save_png(matrix, folder / "confusion_matrix.png")
    if evaluation.widths:
        mean_ious = [row["mean_iou"] for row in evaluation.boundary_rows()]
        whole = segmentation_scores(evaluation.confusion)["mean_iou"]
        save_png(draw_boundary_curve(evaluation.widths, mean_ious, whole=whole), folder / "boundary.png")
    if evaluation.worst:
        samples = [(one.image, one.target, one.prediction) for one in evaluation.worst]
        names = [evaluation.names[one.index] for one in evaluation.worst]
        save_png(draw_panels(samples, classes, names=names), folder / "worst.png")

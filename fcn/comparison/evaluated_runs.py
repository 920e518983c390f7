"""Reads evaluations as rows of a comparison: the settings of the evaluated runs, and those of the evaluation."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fcn import runs
from fcn.comparison.grouping import (
    EACH_FOLD,
    differing_keys,
    format_setting,
    identity_text,
    is_bookkeeping,
    seed_order,
)
from fcn.comparison.run_records import (
    EVALUATED_SPLIT,
    ROUNDING_ONLY,
    RunRecord,
    find_directories,
    read_all,
    read_run,
)
from fcn.config import flatten
from fcn.runs import Status

FOLD_KEY = "data.fold"


def read_evaluations(folders: Sequence[Path]) -> tuple[list[RunRecord], dict[Path, str]]:
    """Read every evaluation at or below the folders, as `read_runs` does with runs.

    The runs of an evaluation must still be where they were; one inside a run directory may be moved with it.

    Raises:
        ComparisonError: if a folder is missing, or none of them holds a readable evaluation.
    """
    paths = find_directories(folders, runs.SCORES)
    rule = f"hold an evaluation, with an {runs.SCORES}; evaluate the runs with scripts/evaluate.py"
    return read_all(paths, _read_evaluation, folders, what="an evaluation", rule=rule)


def _read_evaluation(path: Path) -> RunRecord:
    summary = json.loads((path / runs.SCORES).read_text(encoding="utf-8"))
    recorded = summary["checkpoint"]
    checkpoints = [Path(each) for each in ([recorded] if isinstance(recorded, str) else recorded)]
    configs = [
        {**read_run(run).config, "evaluation.checkpoint": checkpoint.stem}
        for run, checkpoint in zip(_evaluated_runs(path, checkpoints), checkpoints, strict=True)
    ]
    settings = {"precision": "fp32", **summary["settings"]}  # evaluations of earlier versions lack it
    settings = {key: value for key, value in settings.items() if key not in ROUNDING_ONLY}
    if settings["inference"] != "tiled":
        del settings["tile_size"]  # has no effect
    config = _joined_settings(configs) | {f"evaluation.{key}": value for key, value in settings.items()}
    config |= {EVALUATED_SPLIT: summary["split"], "evaluation.members": len(configs)}
    config |= _changed_data(configs[0], summary.get("data", {}))
    scores = {f"val/{name}": value for name, value in summary["scores"].items()}
    scores |= {f"val/iou/{name}": value for name, value in summary["iou"].items()}
    metrics = {name: math.nan if value is None else float(value) for name, value in scores.items()}
    return RunRecord(path, config, Status.finished, metrics, is_evaluation=True)


def _evaluated_runs(path: Path, checkpoints: Sequence[Path]) -> list[Path]:
    """Return the run directory of every checkpoint: the recorded one, else the one that holds the evaluation."""
    recorded = [checkpoint.parent.parent for checkpoint in checkpoints]
    around = path.parent.parent
    is_inside = path.parent.name == runs.EVALUATION and (around / runs.CONFIG).is_file()
    is_moved = len(recorded) == 1 and is_inside and not (recorded[0] / runs.CONFIG).is_file()
    return [around] if is_moved else recorded


def _joined_settings(configs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the settings of all evaluated runs; a key that differs has a text with all values, as `fcn16s,fcn8s`.

    The order of the runs has no effect, so that the same ensemble of other seeds has the same settings. Different folds
    are not distinguished, as in rows of runs.
    """
    if len({config.get(FOLD_KEY) for config in configs}) > 1:
        configs = [{**one, FOLD_KEY: None if one.get(FOLD_KEY) is None else EACH_FOLD} for one in configs]
    keys = differing_keys(configs)
    separating = [key for key in keys if not is_bookkeeping(key)]
    ordered = sorted(
        configs,
        key=lambda one: ([identity_text(one.get(key, ...)) for key in separating], seed_order(one["seed"])),
    )
    joined = {key: ",".join(format_setting(one.get(key, ...)) for one in ordered) for key in keys}
    return {**configs[0], **joined}


def _changed_data(config: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keys such as `evaluation.data.limit` in which the evaluated data differ from those of the run."""
    own = {key: value for key, value in config.items() if key.startswith("data.") and key.split(".")[1] in data}
    evaluated = flatten({"data": json.loads(json.dumps(data), object_hook=_with_numbers_as_keys)})
    keys = [key for key in differing_keys([own, evaluated]) if not is_bookkeeping(key)]
    return {f"evaluation.{key}": evaluated.get(key) for key in keys}


def _with_numbers_as_keys(section: dict[str, Any]) -> dict[Any, Any]:
    """Return a map from numbers, such as data.label_map, with the keys that JSON has as texts; any other as it is."""
    return {int(key): value for key, value in section.items()} if all(map(str.isdecimal, section)) else section

"""`python train.py rerun=<run>`: repeat a finished run in a new directory and compare both bit for bit."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fcn import config as configuration
from fcn import runs
from fcn.config import Config, ConfigError
from fcn.config.overrides import for_shell, split_override, without_keys
from fcn.config.resumable_keys import changed_keys
from fcn.errors import UserError
from fcn.runs.resume import merge_overrides

if TYPE_CHECKING:
    from torch import Tensor

REPORT = "rerun.json"

ALLOWED = ("name", "data.root", "trainer")
"""Keys and groups allowed with rerun: name of the copy, folder of the same images, devices."""

ORIGIN = ("git_commit", "git_diff_sha256", "data", "versions", "world_size", "device", "hardware")
"""Keys of summary.json that describe code, data and machine."""

CLOCK = re.compile(r"(?!val/iou/).*(per_second|seconds|memory)|(data_wait|tflops|mfu)$").match
"""Whether a scalar measures time or memory; val/iou/ is followed by the name of a class, which may be any."""

Pair = list[Any]  # value of the run, value of its copy


class RunDiffers(UserError):
    """Raised if a repeated run differs from the original."""


def prepare_copy(composed: Config, overrides: Sequence[str]) -> tuple[Config, list[str]]:
    """Return configuration and overrides of a copy of the finished run `composed.rerun`.

    They are those of the run, except for the keys in `ALLOWED`. `trainer=...` changes only accelerator and devices;
    other keys of that group must be changed one by one, for example by `trainer.precision=...`.

    Args:
        composed: configuration of the command line.
        overrides: overrides of the command line.

    Raises:
        ConfigError: if there is no such run, it is not finished, or an override is not allowed.
    """
    run = Path(str(composed.rerun))
    config = runs.load_config(run)
    _check_repeatable(run, config)
    changes = without_keys(overrides, "rerun")
    for override in changes:
        key, _ = split_override(override)
        if key not in ALLOWED and not key.startswith("trainer."):
            raise ConfigError(
                f"rerun (={run}) uses the configuration of the run; remove {override}: only {', '.join(ALLOWED)} "
                "can be changed"
            )
    config = replace(config, trainer=config.trainer.with_measured(runs.read_summary(run)))
    copy = replace(merge_overrides(config, composed, changes), rerun=str(run), resume=None)
    return copy, [*without_keys(runs.load_overrides(run), "rerun"), *overrides]


def _check_repeatable(run: Path, config: Config) -> None:
    status = runs.read_status(run)
    if status is not runs.Status.finished:
        raise ConfigError(
            f"rerun (={run}) must be a finished run, but is {status}; finish it with {for_shell('resume', run)}"
        )
    if config.allow:
        keys = ",".join(config.allow)
        raise ConfigError(f"rerun (={run}) was resumed with changes (allow=[{keys}]) and cannot be repeated")
    if not (run / runs.LAST).is_file():
        raise ConfigError(f"rerun (={run}) must hold {runs.LAST} to be compared with; restore the file")


def report_differences(copy: Path) -> None:
    """Compare a finished copy with its run: print the result, and write it to rerun.json.

    Raises:
        RunDiffers: if they are not bit-identical; the copy is complete nevertheless.
        CheckpointError: if the run no longer exists.
    """
    run = Path(str(runs.load_config(copy).rerun))
    report = compare_with_copy(run, copy)
    runs.write_text(copy / REPORT, json.dumps(report, indent=2) + "\n")
    for line in format_report(report):
        print(line)
    if not report["same"]:
        raise RunDiffers(f"{copy} differs from {run}, which it repeats; see {copy / REPORT}")


def compare_with_copy(run: Path, copy: Path) -> dict[str, Any]:
    """Compare the weights of last.ckpt, the metrics of summary.json and the origin of two runs.

    Returns:
        Plain data; differing values are pairs (run, copy). `same`: whether all weights are bit-identical and all
        metrics equal, except those that measure time and memory. `weights`, `metrics`: their number, and the differing
        ones by name. `first`: the first differing scalar in metrics.csv with its epoch from 1, or None. `causes`:
        differences of configuration, code, data, versions and machine by dotted key.

    Raises:
        CheckpointError: if a last.ckpt is missing or cannot be loaded.
    """
    from fcn.runs.checkpoints import read_checkpoint  # imports torch

    ours, theirs = (read_checkpoint(path / runs.LAST) for path in (run, copy))
    summaries = [runs.read_summary(path) for path in (run, copy)]
    weights = differing_tensors(ours["state_dict"], theirs["state_dict"])
    scores = [{name: value for name, value in each["metrics"].items() if not CLOCK(name)} for each in summaries]
    both = {name: [each.get(name) for each in scores] for name in {**scores[0], **scores[1]}}
    metrics = {name: pair for name, pair in both.items() if pair[0] != pair[1]}
    origins = [
        configuration.flatten({**content["config"], **{key: value for key, value in summary.items() if key in ORIGIN}})
        for content, summary in zip((ours, theirs), summaries, strict=True)
    ]
    causes = changed_keys(*origins)
    for number, earlier in enumerate(summaries[0].get("history", []), 1):  # the run was resumed
        then = configuration.flatten({key: value for key, value in earlier.items() if key in ORIGIN})
        causes |= {f"{key} of execution {number}": pair for key, pair in changed_keys(then, origins[1]).items()}
    return {
        "run": str(run),
        "same": not metrics and not weights,
        "weights": {"compared": len(ours["state_dict"].keys() | theirs["state_dict"].keys()), "differing": weights},
        "metrics": {"compared": len(both), "differing": metrics},
        "first": _first_difference(runs.read_metrics(run), runs.read_metrics(copy)),
        "causes": causes,
    }


def differing_tensors(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> list[str]:
    """Return the names of the tensors that are not bit-identical, or that only one state dict has."""
    names = {**ours, **theirs}
    return [name for name in names if not _is_bit_identical(ours.get(name), theirs.get(name))]


def _is_bit_identical(ours: Tensor | None, theirs: Tensor | None) -> bool:
    """Like torch.equal, but NaN equals NaN, and zero differs from minus zero."""
    import torch

    if ours is None or theirs is None or (ours.dtype, ours.shape) != (theirs.dtype, theirs.shape):
        return False
    return torch.equal(*(tensor.reshape(-1).view(torch.uint8) for tensor in (ours, theirs)))


def _first_difference(ours: Sequence[Mapping[str, str]], theirs: Sequence[Mapping[str, str]]) -> dict[str, Any] | None:
    """Return epoch, name and both values of the first difference between two metrics.csv."""
    for row, other in zip(ours, theirs, strict=False):
        for name in row:
            # A column that only one of them has comes from another version of the code.
            if row[name] != other.get(name, row[name]) and not CLOCK(name):
                return {"epoch": int(row["epoch"]) + 1, "scalar": name, "values": [row[name], other[name]]}
    return None


def format_report(report: Mapping[str, Any]) -> list[str]:
    """Return the lines of a report of `compare_with_copy` that are printed."""
    weights, metrics, first = report["weights"], report["metrics"], report["first"]
    causes = [f"{key} {_format_change(pair)}" for key, pair in report["causes"].items()]
    if report["same"]:
        counts = f"all {weights['compared']} tensors and {metrics['compared']} metrics of {report['run']}"
        return [f"same     {counts}, bit for bit", *(f"although {cause}" for cause in causes)]
    lines = [
        f"differs  {len(weights['differing'])} of {weights['compared']} tensors of the weights",
        f"differs  {len(metrics['differing'])} of {metrics['compared']} metrics",
    ]
    if first:
        lines.append(f"differs  from epoch {first['epoch']} on: {first['scalar']} {_format_change(first['values'])}")
    unchanged = "configuration, code, data, versions and machine are the same; some GPU kernels are not deterministic"
    return [*lines, *(f"because? {cause}" for cause in causes or [unchanged])]


def _format_change(pair: Pair) -> str:
    ours, theirs = ("none" if value in (None, "") else value for value in pair)
    return f"{theirs} instead of {ours}"

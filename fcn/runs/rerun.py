"""`python train.py rerun=<run>`: repeat a run in a new directory, and say whether it came out the same, bit for bit."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import OmegaConf

from fcn import config as configuration
from fcn import runs
from fcn.config import NEUTRAL, Config, ConfigError
from fcn.config.overrides import split_override, without_keys
from fcn.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

REPORT = "rerun.json"

ALLOWED = ("name", "data.root", "trainer")
"""What may be typed with rerun: where the copy lies and is computed, and where the same images are."""

ORIGIN = ("git_commit", "git_diff_sha256", "data", "versions", "world_size", "device", "hardware")
"""Keys of summary.json that say where a run comes from."""

CLOCK = re.compile(r"(?!val/iou/).*(per_second|seconds|memory)").match
"""Whether a scalar measures the execution and not the run; classes may have any name."""

MOST_CAUSES = 8  # that are printed
HASH = re.compile(r"^([0-9a-f]{10})[0-9a-f]{30,}$")  # printed short

NO_CAUSE = (
    "neither configuration, code, data, versions nor machine differ; weights that the run began with may have "
    "changed, and some GPU kernels add in no fixed order"
)

Both = list[Any]  # what the run has, and what its copy has


class RunDiffers(UserError):
    """A run was repeated, and something came out differently."""


def prepare(composed: Config, overrides: Sequence[str]) -> tuple[Config, list[str]]:
    """Configuration and overrides of the copy of the finished run that `composed.rerun` names.

    They are the run's own; only what `ALLOWED` names is taken from the command line. `trainer=...` says where to
    compute: accelerator and devices. Precision and the rest stay the run's unless typed as trainer.precision=... .

    Args:
        composed: of the command line.
        overrides: what was typed.

    Raises:
        ConfigError: if there is no such run, it is not finished, or something else is typed as well.
    """
    run = Path(str(composed.rerun))
    config = runs.load_config(run)
    _check_repeatable(run, config)
    merged, asked = (OmegaConf.structured(each) for each in (config, composed))
    for key in _typed_keys(run, without_keys(overrides, "rerun")):
        OmegaConf.update(merged, key, OmegaConf.select(asked, key))
    copy = configuration.validate_run(merged)
    before = without_keys(runs.load_overrides(run), "rerun")
    return replace(copy, rerun=str(run), resume=None), [*before, *overrides]


def _check_repeatable(run: Path, config: Config) -> None:
    status = runs.read_status(run)
    if status is not runs.Status.finished:
        raise ConfigError(f"rerun (={run}) must be a finished run, and this one is {status}; finish it by resume={run}")
    if config.allow:
        raise ConfigError(
            f"rerun (={run}) was resumed with changes (allow=[{','.join(config.allow)}]): no command repeats it"
        )
    if not (run / runs.LAST).is_file():
        raise ConfigError(f"rerun (={run}) must still have {runs.LAST}, to compare with; bring it back")


def _typed_keys(run: Path, overrides: Sequence[str]) -> list[str]:
    """Keys that take their values from the command line."""
    keys = []
    for override in overrides:
        key, _ = split_override(override)
        if key not in ALLOWED and not key.startswith("trainer."):
            raise ConfigError(
                f"rerun (={run}) brings its run's own configuration; leave out {override}: only "
                f"{', '.join(ALLOWED)} may be typed as well"
            )
        keys += ["trainer.accelerator", "trainer.devices"] if key == "trainer" else [key]
    return keys


def conclude(again: Path) -> None:
    """Compare a finished copy with the run it repeats: print what came out, and write it to rerun.json.

    Raises:
        RunDiffers: if the copy is not the same bit for bit; it is complete all the same.
        CheckpointError: if the run has gone in the meantime.
    """
    run = Path(str(runs.load_config(again).rerun))
    report = compare(run, again)
    runs.write_text(again / REPORT, json.dumps(report, indent=2) + "\n")
    for line in lines(report):
        print(line)
    if not report["same"]:
        raise RunDiffers(f"{again} differs from {run}, which it repeats; see {again / REPORT}")


def compare(run: Path, again: Path) -> dict[str, Any]:
    """What differs between a run and its copy, in pairs of what the run has and what the copy has.

    Returns:
        Plain data. `same`: whether all weights of last.ckpt are the same bits, and all metrics of summary.json the
        same numbers, those of clock and memory aside. `weights`: see `_compare_weights`. `metrics`: how many there
        are, and those that differ by name. `first`: the first scalar, with its epoch from 1, of the first row of
        metrics.csv that differs; null if none does. `causes`: what of configuration, code, data, versions and
        machine differs, by dotted keys.

    Raises:
        CheckpointError: if a last.ckpt is not there or does not load.
    """
    from fcn.runs.checkpoints import read_checkpoint  # imports torch

    contents = [read_checkpoint(path / runs.LAST) for path in (run, again)]
    ours, theirs = (runs.read_summary(path) for path in (run, again))
    weights = _compare_weights(*(content["state_dict"] for content in contents))
    scores = [{name: value for name, value in each["metrics"].items() if not CLOCK(name)} for each in (ours, theirs)]
    metrics = _differing(*scores)
    changed = _changed(*(configuration.flatten(content["config"]) for content in contents))
    return {
        "run": str(run),
        "same": not metrics and not weights["differing"],
        "weights": weights,
        "metrics": {"compared": len({**scores[0], **scores[1]}), "differing": metrics},
        "first": _first_difference(runs.read_metrics(run), runs.read_metrics(again)),
        "causes": {**{key: both for key, both in changed.items() if key not in NEUTRAL}, **_causes(ours, theirs)},
    }


def _differing(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Both]:
    """Entries that are not the same, null where there is none."""
    both = {name: [ours.get(name), theirs.get(name)] for name in {**ours, **theirs}}
    return {name: values for name, values in both.items() if values[0] != values[1]}


def _causes(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Both]:
    """What two summaries say differently of where their runs come from, also of executions before the last one."""
    now = _origin(theirs)
    causes = _changed(_origin(ours), now)
    for number, earlier in enumerate(ours.get("history", []), 1):
        causes |= {f"{key} of execution {number}": both for key, both in _changed(_origin(earlier), now).items()}
    return causes


def _origin(summary: Mapping[str, Any]) -> dict[str, Any]:
    return configuration.flatten({key: summary[key] for key in ORIGIN if key in summary})


def _changed(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Both]:
    """Entries of both that are not the same. One that another version of the code does not know is no change."""
    return {key: [ours[key], theirs[key]] for key in ours if key in theirs and ours[key] != theirs[key]}


def _compare_weights(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> dict[str, Any]:
    """How many tensors there are, names of those that differ, and the largest difference with its tensor's name."""
    names = {**ours, **theirs}
    differing = [name for name in names if not _same_bits(ours.get(name), theirs.get(name))]
    distances = {name: _distance(ours[name], theirs[name]) for name in differing if name in ours and name in theirs}
    farthest = max(distances, key=lambda name: distances[name], default=None)
    largest = distances[farthest] if farthest else math.inf
    return {
        "compared": len(names),
        "differing": differing,
        "largest_difference": largest if math.isfinite(largest) else None,
        "largest_in": farthest,
    }


def _same_bits(ours: Tensor | None, theirs: Tensor | None) -> bool:
    """As torch.equal, but NaN equals itself, and zero is not minus zero."""
    import torch

    if ours is None or theirs is None or (ours.dtype, ours.shape) != (theirs.dtype, theirs.shape):
        return False
    return torch.equal(*(tensor.reshape(-1).view(torch.uint8) for tensor in (ours, theirs)))


def _distance(ours: Tensor, theirs: Tensor) -> float:
    """Largest absolute difference of two elements; infinite where no number says it."""
    if ours.shape != theirs.shape:
        return math.inf
    distance = float((ours.double() - theirs.double()).abs().max())
    return math.inf if math.isnan(distance) else distance


def _first_difference(ours: Sequence[Mapping[str, str]], theirs: Sequence[Mapping[str, str]]) -> dict[str, Any] | None:
    """Where two metrics.csv part: epoch, scalar and both values, as text."""
    for one, other in zip(ours, theirs, strict=False):
        for name in one:
            # A column that only one of them has was left out, or is new, in the code of the other.
            if one[name] != other.get(name, one[name]) and not CLOCK(name):
                return {"epoch": int(one["epoch"]) + 1, "scalar": name, "values": [one[name], other[name]]}
    if len(ours) != len(theirs):
        return {
            "epoch": min(len(ours), len(theirs)) + 1,
            "scalar": "number of epochs",
            "values": [str(len(ours)), str(len(theirs))],
        }
    return None


def lines(report: Mapping[str, Any]) -> list[str]:
    """The report for a person."""
    weights, metrics, first = report["weights"], report["metrics"], report["first"]
    causes = [f"{key} {_change(values)}" for key, values in report["causes"].items()]
    if len(causes) > MOST_CAUSES:
        causes[MOST_CAUSES:] = [f"and {len(causes) - MOST_CAUSES} more in {REPORT}"]
    if report["same"]:
        told = f"all {weights['compared']} tensors and {metrics['compared']} metrics of {report['run']}, bit for bit"
        return [f"same     {told}", *_under("although", causes)]
    found = [f"{len(weights['differing'])} of {weights['compared']} tensors of the weights"]
    if weights["largest_difference"] is not None:
        found[0] += f", by up to {weights['largest_difference']:.3g} in {weights['largest_in']}"
    found.append(f"{len(metrics['differing'])} of {metrics['compared']} metrics")
    if first:
        found.append(f"from epoch {first['epoch']} on: {first['scalar']} {_change(first['values'])}")
    return [*_under("differs", found), *_under("because?", causes or [NO_CAUSE])]


def _under(heading: str, found: Sequence[str]) -> list[str]:
    return [f"{heading if number == 0 else '':<8} {line}" for number, line in enumerate(found)]


def _change(values: Both) -> str:
    ours, theirs = ("none" if value in (None, "") else HASH.sub(r"\1...", str(value)) for value in values)
    return f"{theirs} instead of {ours}"

"""summary.json: its fields, the status of a run, and how the file is read, written and changed."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict, cast

from fcn.config import ConfigError
from fcn.config.choices import Choice
from fcn.config.overrides import for_shell
from fcn.runs.atomic_files import write_text

SUMMARY = "summary.json"


class Status(Choice):
    """Status of a run, in summary.json, and of a job, in sweep.json."""

    queued = "queued"
    running = "running"
    finished = "finished"
    interrupted = "interrupted"
    """Stopped, or still training: it can be resumed from its last checkpoint."""
    failed = "failed"
    pruned = "pruned"
    """Stopped by a search because of a low score."""
    unfinished = "unfinished"
    """Without summary.json: the first epoch has not been completed."""


class Execution(TypedDict, total=False):
    """Origin of a run: code, data and machine of one execution. A resumed run has several, see `Summary.history`.

    Attributes:
        started: time in UTC, ISO 8601.
        git_commit: commit of the code; None outside a checkout.
        git_dirty: whether the code differed from the commit.
        git_diff_sha256: hash of that difference; None if there was none.
        versions: versions of Python and of the packages in `fcn.runs.provenance.PACKAGES`.
        hardware: description of the machine, see `fcn.runs.provenance.hardware`.
        data: fingerprint of the images, see `fcn.data.fingerprint`.
        warnings: lines on what may mislead in the data, as in the header of the run.
        device: name of the GPU or processor.
        precision: precision of forward and backward pass: fp32, bf16 or fp16.
        layout: memory layout of images and feature maps: channels_last or channels_first.
        world_size: number of processes.
        components: options from outside the package with their package or module, see
            `fcn.config.components.component_origins`; only if there are any.
    """

    started: str
    git_commit: str | None
    git_dirty: bool
    git_diff_sha256: str | None
    versions: dict[str, Any]
    hardware: dict[str, Any]
    data: dict[str, Any]
    warnings: list[str]
    device: str
    precision: str
    layout: str
    world_size: int
    components: dict[str, str]


class Summary(Execution, total=False):
    """Fields of summary.json, in addition to those of the latest execution.

    Attributes:
        status: a value of `Status`.
        metrics: latest value of every scalar, by name; None for an undefined score, such as the IoU of a missing class.
        best: `epoch` (from 0), `step`, `val/mean_iou` and `checkpoint` of the best validation; empty before the first.
        stopped_early: why a finished run ended before its last step; only if it did.
        images_per_second: training images of all processes per second, without validation.
        data_wait: share of the training time in which process 0 waits for a batch, from 0 to 1.
        tflops: 10^12 floating-point operations per second of all processes in the convolutions and matrix products of
            forward and backward pass; only if the operations of the network could be counted.
        mfu: model FLOPs utilisation: `tflops` relative to the peak of the GPUs; only on GPUs with a known peak.
        memory_mib: peak memory of process 0 in MiB, see `fcn.training.monitors.peak_memory_mib`.
        seconds: wall-clock time of all executions.
        accumulate: number of micro-batches per step and process of the last execution.
        overrides: overrides as given on the command line.
        history: earlier executions, oldest first.
    """

    status: str
    metrics: Mapping[str, float | None]
    best: dict[str, Any]
    stopped_early: str
    images_per_second: float
    data_wait: float
    tflops: float
    mfu: float
    memory_mib: float
    seconds: float
    accumulate: int
    overrides: list[str]
    history: list[Execution]


def read_summary(run_dir: Path) -> Summary:
    """Return the contents of summary.json; an empty dict before the first epoch has been completed.

    Raises:
        ConfigError: if the file is not JSON.
    """
    path = run_dir / SUMMARY
    try:
        return cast(Summary, json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise ConfigError(
            f"{path} must be JSON: {error}; delete it, and {for_shell('resume', run_dir)} writes it again"
        ) from error


def write_summary(run_dir: Path, summary: Mapping[str, Any]) -> None:
    """Write summary.json. A metric that is NaN or infinite becomes null, since JSON has neither."""
    metrics = {name: _finite_or_none(value) for name, value in summary["metrics"].items()}
    write_text(run_dir / SUMMARY, json.dumps({**summary, "metrics": metrics}, indent=2, allow_nan=False) + "\n")


def _finite_or_none(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def read_status(run_dir: Path) -> Status:
    """Return the status of a run; `Status.unfinished` without summary.json."""
    return Status(read_summary(run_dir).get("status", Status.unfinished))


def set_status(run_dir: Path, status: Status) -> None:
    """Change the status in summary.json; create the file, without scores, if no epoch has been completed."""
    write_summary(run_dir, {"metrics": {}, **read_summary(run_dir), "status": status})


def best_score(run_dir: Path) -> float:
    """Return the best val mIoU of a run, the objective of sweepers and searches; NaN without any validation."""
    best = read_summary(run_dir).get("best", {}).get("val/mean_iou")
    return math.nan if best is None else float(best)


def final_metrics(run_dir: Path) -> dict[str, float]:
    """Return the metrics of summary.json by name, NaN for an undefined score."""
    metrics = read_summary(run_dir).get("metrics", {})
    return {name: math.nan if value is None else value for name, value in metrics.items()}

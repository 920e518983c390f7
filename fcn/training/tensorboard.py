"""What TensorBoard shows of a run: scalars, pictures, the charts of CUSTOM SCALARS, a row in HPARAMS."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams.metadata import PLUGIN_DATA_VERSION
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from fcn.runs import Status
from fcn.runs.atomic_files import named_in_errors

LAYOUT = {
    "learning": {
        "loss": ["train/loss$", "val/loss$", "d2l/train_loss$", "d2l/test_loss$"],
        "pixel accuracy": ["train/pixel_accuracy$", "val/pixel_accuracy$", "d2l/train_acc$", "d2l/test_acc$"],
        "mean IoU": ["val/mean_iou$", "best/mean_iou$"],
    },
    "scores": {
        "mean accuracy": ["val/mean_accuracy$"],
        "frequency-weighted IoU": ["val/fw_iou$"],
        "IoU per class": ["val/iou/"],
    },
    "optimisation": {
        "learning rate": ["lr$"],
        "gradient norm": ["gradient_norm$"],
        "loss per step": ["train/loss_step$"],
    },
    "upsampling": {"drift from bilinear": ["upsampling/drift/"]},
    "speed and memory": {
        "images per second": ["images_per_second$", "images_per_second_step$"],
        "peak memory, MiB": ["memory_mib$"],
    },
}
"""Categories of the CUSTOM SCALARS tab, their charts, and regular expressions that tags begin with.

The same for all runs, whatever they measure: TensorBoard unites the runs' layouts chart by chart, and charts of one
title that are not equal stand there twice.
"""

EVENTS = "events.out.tfevents"
"""Begins the names of event files; the second at which they were begun follows."""

UNFINISHED = ".unfinished"
"""Ends the name of the event file that says how a run failed."""


class EventFiles:
    """The event files of a run. One that goes on drops the points after its checkpoint: they come again.

    Args:
        run_dir: where the files lie.
        step: optimiser steps already made.
        hyperparameters: of the run's row in HPARAMS; bool, int, float or str.
    """

    def __init__(self, run_dir: Path, *, step: int, hyperparameters: Mapping[str, Any]) -> None:
        self.run_dir = run_dir
        # TensorBoard believes the first end of a run that it reads. That of a failure is dropped when the run goes on.
        for path in run_dir.glob(f"events.*{UNFINISHED}"):
            path.unlink()
        _let_come_before(run_dir, int(time.time()))
        self._file = run_dir / EVENTS
        with named_in_errors(self._file):
            self._writer = SummaryWriter(str(run_dir), purge_step=step + 1, flush_secs=10)
            self._begin(hyperparameters)

    def _begin(self, hyperparameters: Mapping[str, Any]) -> None:
        charts = {
            category: {title: ["Multiline", tags] for title, tags in LAYOUT[category].items()} for category in LAYOUT
        }
        self._writer.add_custom_scalars(charts)
        # Without the experiment record, whose columns the first run would fix for all, TensorBoard unites the runs'.
        _, start, _ = hparams(dict(hyperparameters), {})  # type: ignore[no-untyped-call]
        _add(self._writer, start)

    def add_scalars(self, values: Mapping[str, float], step: int) -> None:
        with named_in_errors(self._file):
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)

    def add_pictures(self, pictures: Mapping[str, Image.Image], step: int) -> None:
        with named_in_errors(self._file):
            for name, picture in pictures.items():
                self._writer.add_image(name, np.asarray(picture), step, dataformats="HWC")

    def flush(self) -> None:
        with named_in_errors(self._file):
            self._writer.flush()

    def close(self, status: Status) -> None:
        """Write how the run ended, `finished` or `failed`; of an interrupted run the end is open."""
        with named_in_errors(self._file):
            if status is Status.finished:
                _add(self._writer, _session_end("STATUS_SUCCESS"))
            self._writer.close()
            if status is Status.failed:
                writer = SummaryWriter(str(self.run_dir), filename_suffix=UNFINISHED)
                _add(writer, _session_end("STATUS_FAILURE"))
                writer.close()


def _let_come_before(run_dir: Path, now: int) -> None:
    """Rename event files of a clock that was ahead: TensorBoard reads a run's files in the order of their names."""
    names = sorted(path.name for path in run_dir.glob(f"{EVENTS}.*"))
    if not names or names[-1] < f"{EVENTS}.{now:010d}":
        return
    for place, name in enumerate(names, start=now - len(names)):
        rest = name.removeprefix(f"{EVENTS}.").partition(".")[2]
        (run_dir / name).rename(run_dir / f"{EVENTS}.{place:010d}.{rest}")


def _session_end(status: str) -> Summary:
    """The record of a run's end. That of torch knows no status but success."""
    _, _, end = hparams({}, {})  # type: ignore[no-untyped-call]
    info = SessionEndInfo(status=api_pb2.Status.Value(status))
    content = HParamsPluginData(session_end_info=info, version=PLUGIN_DATA_VERSION)
    end.value[0].metadata.plugin_data.content = content.SerializeToString()
    assert isinstance(end, Summary)
    return end


def _add(writer: SummaryWriter, record: Summary) -> None:
    writer._get_file_writer().add_summary(record)  # type: ignore[no-untyped-call]

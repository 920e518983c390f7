"""TensorBoard files of a run: scalars, pictures, the charts of CUSTOM SCALARS, and the row of the run in HPARAMS."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams.metadata import PLUGIN_DATA_VERSION
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from fcn import config as configuration
from fcn.config import Config
from fcn.config.overrides import values_by_key
from fcn.runs import Status
from fcn.runs.atomic_files import named_in_errors

HPARAMS = (
    "model.name", "model.init", "backbone.name", "backbone.weights", "data.name",
    "loss.name", "loss.reduction", "optim.name", "schedule.name", "lr", "batch_size", "epochs", "steps", "seed",
)  # fmt: skip
"""Keys that the HPARAMS tab shows for every run, in addition to the overridden keys."""

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
"""Categories of the CUSTOM SCALARS tab, their charts, and regular expressions of the tags in a chart.

All runs have the same layout, because TensorBoard merges the layouts and shows charts twice if they differ but have the
same title.
"""

EVENTS = "events.out.tfevents"
"""Start of the name of every event file."""

UNFINISHED = ".unfinished"
"""End of the name of the event file that records the failure of a run."""


def hyperparameters(config: Config, overrides: Sequence[str]) -> dict[str, bool | int | float | str]:
    """Return the values that the HPARAMS tab shows for a run, by dotted key."""
    flat = configuration.flatten(configuration.to_container(config))
    values = {key: flat[key] for key in [*HPARAMS, *values_by_key(overrides)] if flat.get(key) is not None}
    return {key: v if isinstance(v, (bool, int, float, str)) else str(v) for key, v in values.items()}


class EventFiles:
    """Writer of the event files of a run. In a resumed run, points after its checkpoint are replaced.

    Args:
        run_dir: run directory.
        step: number of optimiser steps already made.
        hyperparameters: values shown in the HPARAMS tab.
    """

    def __init__(self, run_dir: Path, *, step: int, hyperparameters: Mapping[str, Any]) -> None:
        self.run_dir = run_dir
        # TensorBoard shows the first recorded end of a run: a failure is forgotten when the run is resumed.
        for path in run_dir.glob(f"events.*{UNFINISHED}"):
            path.unlink()
        self._file = run_dir / EVENTS
        with named_in_errors(self._file):
            self._writer = SummaryWriter(str(run_dir), purge_step=step + 1, flush_secs=10)
            self._writer.add_custom_scalars(
                {
                    category: {title: ["Multiline", tags] for title, tags in charts.items()}
                    for category, charts in LAYOUT.items()
                }
            )
            # Without the first record, the experiment, whose columns would hold for all runs, TensorBoard shows the
            # hyperparameters of all runs. SummaryWriter.add_hparams would write it, into a run of its own.
            _, session_start, _ = hparams(dict(hyperparameters), {})  # type: ignore[no-untyped-call]
            _add_record(self._writer, session_start)

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
        """Close the files, and record the end of a run that has finished or failed."""
        with named_in_errors(self._file):
            if status is Status.finished:
                _add_record(self._writer, _session_end("STATUS_SUCCESS"))
            self._writer.close()
            if status is Status.failed:
                writer = SummaryWriter(str(self.run_dir), filename_suffix=UNFINISHED)
                _add_record(writer, _session_end("STATUS_FAILURE"))
                writer.close()


# TensorBoard has no public function for the end of a session without TensorFlow, and that of torch only records
# success: the rest of this file uses TensorBoard's protocol buffers (tested with TensorBoard 2.21 and torch 2.15).


def _session_end(status: str) -> Any:
    _, _, record = hparams({}, {})  # type: ignore[no-untyped-call]
    info = SessionEndInfo(status=api_pb2.Status.Value(status))
    content = HParamsPluginData(session_end_info=info, version=PLUGIN_DATA_VERSION)
    record.value[0].metadata.plugin_data.content = content.SerializeToString()
    return record


def _add_record(writer: SummaryWriter, record: Any) -> None:
    assert writer.file_writer is not None
    writer.file_writer.add_summary(record)

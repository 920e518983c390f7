"""TensorBoard files of a run: scalars, pictures, the charts of CUSTOM SCALARS, and the row of the run in HPARAMS."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pytorch_lightning.loggers.logger import Logger
from tensorboard.plugins.hparams import api_pb2
from tensorboard.plugins.hparams.metadata import PLUGIN_DATA_VERSION
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData, SessionEndInfo
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from fcn import config as configuration
from fcn import runs
from fcn.config import Config
from fcn.config.overrides import values_by_key
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
        "waiting for data, TFLOP/s and share of the peak": ["data_wait$", "tflops$", "mfu$"],
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
    """Return the values that the HPARAMS tab shows for a run, by dotted key.

    A key that is null is left out: TensorBoard shows an empty cell for it. Any text, such as "null", would turn the
    numbers of other runs into text, which the tab does not find again in those runs and therefore hides.
    """
    flat = configuration.flatten(configuration.to_container(config))
    values = {key: flat[key] for key in [*HPARAMS, *values_by_key(overrides)] if flat.get(key) is not None}
    return {key: value if isinstance(value, (bool, int, float, str)) else _text(value) for key, value in values.items()}


def _text(value: Any) -> str:
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list) else str(value)


class EventFiles(Logger):
    """Writer of the event files of a run. In a resumed run, points after its checkpoint are replaced.

    Args:
        config: configuration of the run.
        run_dir: run directory.
        step: number of optimiser steps already made.
    """

    def __init__(self, config: Config, run_dir: Path, *, step: int) -> None:
        super().__init__()
        self._run_dir = run_dir
        # TensorBoard shows the first recorded end of a run: a failure is forgotten when the run is resumed.
        for path in run_dir.glob(f"events.*{UNFINISHED}"):
            path.unlink()
        # TensorBoard reads the files in the order of their names, which begin with the second of their creation.
        while next(run_dir.glob(f"{EVENTS}.{int(time.time())}.*"), None):
            time.sleep(0.1)
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
            values = hyperparameters(config, runs.load_overrides(run_dir))
            _, session_start, _ = hparams(values, {})  # type: ignore[no-untyped-call]
            _add_record(self._writer, session_start)

    @property
    def name(self) -> str:
        return "tensorboard"

    @property
    def version(self) -> str:
        return ""

    @property
    def experiment(self) -> SummaryWriter:
        return self._writer

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        with named_in_errors(self._file):
            for name, value in metrics.items():
                self._writer.add_scalar(name, value, step)

    def log_image(self, key: str, images: list[Image.Image], step: int | None = None) -> None:
        with named_in_errors(self._file):
            for picture in images:
                self._writer.add_image(key, np.asarray(picture), step, dataformats="HWC")

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Do nothing: HPARAMS shows the keys of `hyperparameters` only."""

    def save(self) -> None:
        with named_in_errors(self._file):
            self._writer.flush()

    def finalize(self, status: str) -> None:
        """Close the files, and record the end of a run that has finished or failed."""
        with named_in_errors(self._file):
            if status == "success":
                _add_record(self._writer, _session_end("STATUS_SUCCESS"))
            self._writer.close()
            if status == "failed":
                writer = SummaryWriter(str(self._run_dir), filename_suffix=UNFINISHED)
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

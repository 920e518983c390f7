"""The event files of a run, read by TensorBoard's own reader."""

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.api_pb2 import Status as SessionStatus

from fcn.config import Config
from fcn.runs import Status
from fcn.training.loggers.guarded import FINAL_STATUS
from fcn.training.loggers.tensorboard import HPARAMS, LAYOUT, EventFiles, hyperparameters

CONFIG = Config(lr=0.1)


def written(run, *executions):
    """Write the files of executions (first step, values of the steps after it, status) and read all of them."""
    for step, values, status in executions:
        board = EventFiles(CONFIG, run, step=step)
        for number, value in enumerate(values, start=step + 1):
            board.log_metrics({"train/loss": value}, number)
        board.save()
        if status is not None:  # None: the process was killed
            board.finalize(FINAL_STATUS[Status(status)])
    events = EventAccumulator(str(run))
    events.Reload()
    return events


def status_of(events):
    """Return the name of the status in HPARAMS."""
    try:
        record = events.SummaryMetadata(metadata.SESSION_END_INFO_TAG)
    except KeyError:
        return "STATUS_UNKNOWN"
    end = metadata.parse_session_end_info_plugin_data(record.plugin_data.content)
    return SessionStatus.Name(end.status)


@pytest.mark.parametrize(
    ("statuses", "session_status"),
    [
        (["finished"], "STATUS_SUCCESS"),
        (["failed"], "STATUS_FAILURE"),
        (["interrupted"], "STATUS_UNKNOWN"),
        ([None], "STATUS_UNKNOWN"),
        (["failed", "finished"], "STATUS_SUCCESS"),
        (["interrupted", "finished"], "STATUS_SUCCESS"),
        (["interrupted", "failed", "failed"], "STATUS_FAILURE"),
        (["failed", "interrupted"], "STATUS_UNKNOWN"),
    ],
)
def test_status_is_that_of_the_last_execution(tmp_path, statuses, session_status):
    events = written(tmp_path, *[(number, [1.0], status) for number, status in enumerate(statuses)])
    assert status_of(events) == session_status


def test_resumed_run_replaces_points_after_its_checkpoint(tmp_path):
    """Resumed at step 2, before the points 3 and 4 of the killed execution."""
    events = written(tmp_path, (0, [9.0, 8.0, 7.0, 6.0], None), (2, [7.5, 6.5], "finished"))
    assert [(point.step, point.tensor_proto.float_val[0]) for point in events.Tensors("train/loss")] == [
        (1, 9.0), (2, 8.0), (3, 7.5), (4, 6.5),
    ]  # fmt: skip
    start = events.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    values = metadata.parse_session_start_info_plugin_data(start).hparams
    assert (values["lr"].number_value, values["model.init"].string_value) == (0.1, "bilinear")


def test_layout_is_written_at_the_start(tmp_path):
    events = written(tmp_path, (0, [1.0], None))
    layout = Layout.FromString(events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    charts = {
        category.title: {chart.title: list(chart.multiline.tag) for chart in category.chart}
        for category in layout.category
    }
    assert charts == LAYOUT
    assert {"train/loss$", "val/loss$"} <= set(charts["learning"]["loss"])


def test_picture_keeps_its_pixels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    board = EventFiles(CONFIG, tmp_path, step=0)
    board.log_image("val/samples", [Image.fromarray(pixels)], step=1)
    board.finalize("success")
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    width, height, encoded = events.Tensors("val/samples")[0].tensor_proto.string_val
    assert (int(width), int(height)) == (30, 20)
    (tmp_path / "picture.png").write_bytes(encoded)
    with Image.open(tmp_path / "picture.png") as picture:
        np.testing.assert_array_equal(picture, pixels)


def test_hparams_are_the_main_keys_and_the_overridden_ones():
    values = hyperparameters(Config(lr=0.5), ["data.crop_size=[64,96]", "+trainer.val_every=2", "lr=0.5"])
    assert set(values) == {*HPARAMS, "data.crop_size", "trainer.val_every"} - {"steps"}  # null, and not a number
    assert (values["lr"], values["data.crop_size"]) == (0.5, str(Config().data.crop_size))

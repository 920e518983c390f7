"""The event files of a run, read by TensorBoard's own reader."""

import numpy as np
import pytest
from omegaconf import OmegaConf
from PIL import Image
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams import api_pb2, get_experiment, list_session_groups, metadata
from tensorboard.plugins.hparams.api_pb2 import Status as SessionStatus
from tensorboard.plugins.hparams.backend_context import Context

from fcn import runs
from fcn.config import Config, choices, option, options, schema_fields, to_container, validate
from fcn.config.choices import Choice
from fcn.config.components import GROUPS, LIST_GROUPS
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


def test_executions_of_one_second_are_read_in_their_order(tmp_path):
    # Within a second, the names would differ by a counter only, which is sorted as text: 10 before 9.
    events = written(tmp_path, (0, [4.0, 3.0], "interrupted"), (1, [2.0], "interrupted"), (2, [1.0], "finished"))
    points = [(point.step, point.tensor_proto.float_val[0]) for point in events.Tensors("train/loss")]
    assert points == [(1, 4.0), (2, 2.0), (3, 1.0)]
    seconds = [path.name.split(".")[3] for path in sorted(tmp_path.glob("events.*"))]
    assert len(set(seconds)) == 3


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


def nullable_keys():
    """Return every key that may be null, with the options that have it and a value of its type."""
    samples = {"int": 2, "float": 2.0, "str": "text", "bool": True, "list[int]": [1, 2], "list[float]": [1.0, 2.0]}
    found = {}
    chosen = [{group: option(group, name)} for group in GROUPS for name in options(group)]
    chosen += [{group: {name: option(group, name)}} for group in LIST_GROUPS for name in options(group)]
    for each in chosen:
        container = to_container(Config(**each))
        for key, entry in schema_fields(Config, container).items():
            annotation = str(entry.type)
            if annotation.endswith(" | None"):
                inner = annotation.removesuffix(" | None")
                value = entry.metadata["high"] or samples.get(inner) or next(iter(getattr(choices, inner)))
                found.setdefault(key, (container, str(value) if isinstance(value, Choice) else value))
    return found


NULLABLE = nullable_keys()


def record_run(run_dir, values, *overrides):
    config = validate(values, Config)
    runs.create(run_dir, config, overrides=overrides)
    EventFiles(config, run_dir, step=0).finalize("success")


def hparams_page(folder):
    """Return what HPARAMS asks TensorBoard for with all boxes ticked: the columns, and the runs that it shows."""
    multiplexer = EventMultiplexer().AddRunsFromDirectory(str(folder))
    multiplexer.Reload()
    context = TBContext(data_provider=MultiplexerDataProvider(multiplexer, str(folder)))
    backend, request_context = Context(context), RequestContext()
    columns = get_experiment.Handler(
        request_context, backend, "", api_pb2.GetExperimentRequest(experiment_name="")
    ).run()
    request = api_pb2.ListSessionGroupsRequest(slice_size=100, allowed_statuses=list(SessionStatus.values()))
    for info in columns.hparam_infos:
        parameter = request.col_params.add(hparam=info.name)
        if info.HasField("domain_discrete"):
            parameter.filter_discrete.extend(info.domain_discrete)
        else:
            parameter.filter_interval.CopyFrom(info.domain_interval)
    groups = list_session_groups.Handler(request_context, backend, "", request).run().session_groups
    return {info.name: info for info in columns.hparam_infos}, {group.name: group for group in groups}


@pytest.mark.parametrize("key", NULLABLE)
def test_hparams_shows_all_runs_of_a_key_that_is_null_in_one(tmp_path, key):
    container, value = NULLABLE[key]
    for name, each in {"null": None, "set": value}.items():
        values = OmegaConf.create(container)
        OmegaConf.update(values, key, each)
        record_run(tmp_path / name, OmegaConf.to_container(values), f"{key}={each}")
    columns, shown = hparams_page(tmp_path)
    assert set(shown) == {"null", "set"}
    assert key in columns
    assert key not in shown["null"].hparams
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    assert columns[key].type == (api_pb2.DATA_TYPE_FLOAT64 if number else columns[key].type)


def test_hparams_shows_the_options_of_list_groups(tmp_path):
    for name, chosen in {"both": ["tensorboard", "csv"], "one": ["csv"], "none": []}.items():
        values = to_container(Config(logger={each: option("logger", each) for each in chosen}))
        record_run(tmp_path / name, values, f"logger=[{','.join(chosen)}]")
    _, shown = hparams_page(tmp_path)
    assert {name: group.hparams["logger"].string_value for name, group in shown.items()} == {
        "both": "[tensorboard, csv]",
        "one": "[csv]",
        "none": "[]",
    }


def test_hparams_are_the_main_keys_and_the_overridden_ones():
    values = hyperparameters(Config(lr=0.5), ["data.crop_size=[64,96]", "+trainer.val_every=2", "lr=0.5"])
    assert set(values) == {*HPARAMS, "data.crop_size", "trainer.val_every"} - {"steps"}  # null, and not a number
    assert (values["lr"], values["data.crop_size"]) == (0.5, str(Config().data.crop_size))

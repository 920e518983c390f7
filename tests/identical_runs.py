"""Bit-for-bit comparison of two finished runs."""

from pathlib import Path

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fcn import runs
from fcn.models.model_options import FcnConfig

MEASURED = {"images_per_second", "data_wait", "tflops", "mfu", "memory_mib"}


def assert_identical(run: Path, other: Path) -> None:
    """Fail unless weights, optimiser, metrics.csv, summary and step curves of two runs are equal to the last bit."""
    ours, theirs = (torch.load(path / runs.LAST, weights_only=True) for path in (run, other))
    assert ours["global_step"] == theirs["global_step"]
    for state in ("state_dict", "current_model_state"):  # of an average, and of the weights that are trained
        assert ours.get(state, {}).keys() == theirs.get(state, {}).keys()
        for name, weight in theirs.get(state, {}).items():
            assert torch.equal(ours[state][name], weight), (state, name)
    assert callback_states(ours) == callback_states(theirs)
    (optimizer,), (other_optimizer,) = ours["optimizer_states"], theirs["optimizer_states"]
    assert optimizer["state"].keys() == other_optimizer["state"].keys()
    for index, moments in optimizer["state"].items():
        for name, moment in moments.items():
            assert torch.equal(moment, other_optimizer["state"][index][name]), name
    summaries = [runs.read_summary(path) for path in (run, other)]
    for key in ("metrics", "best", "world_size"):
        assert summaries[0][key] == summaries[1][key], key
    assert [summary["status"] for summary in summaries] == ["finished", "finished"]
    assert scalar_columns(run) == scalar_columns(other)
    assert step_curves(run) == step_curves(other)


def callback_states(checkpoint: dict) -> dict[str, object]:
    """States of callbacks other than the recording, which depends on the clock."""
    return {name: state for name, state in checkpoint["callbacks"].items() if name != "RunRecorder"}


def scalar_columns(run: Path) -> list[dict[str, str]]:
    """Rows of metrics.csv without the columns that depend on the clock or the machine."""
    rows = runs.read_metrics(run)
    upsampling = {"upsampling/drift/upscore"} if isinstance(runs.load_config(run).model, FcnConfig) else set()
    assert {"gradient_norm", *upsampling} <= set(rows[0])
    return [{key: row[key] for key in row if key not in MEASURED} for row in rows]


def step_curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Points of the step curves as TensorBoard shows them."""
    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    tags = ("train/loss_step", "gradient_norm", "lr")
    return {tag: [(point.step, point.value) for point in events.Scalars(tag)] for tag in tags}

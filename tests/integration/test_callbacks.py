"""Callbacks: what they can monitor, early stopping, averaged weights, and callbacks from outside."""

import copy
import functools
import itertools
import json
import re
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.optim.swa_utils import AveragedModel, get_ema_avg_fn

import fcn
from fcn import runs
from fcn.runs.resume import BACKUP
from fcn.training.callback_options import scalar_names
from fcn.training.task import SegmentationTask
from tests.commands import TINY, type_in
from tests.identical_runs import assert_identical

SMALL = (
    *TINY, "data.crop_size=[32,32]", "batch_size=4", "trainer=cpu",
    "trainer.sample_images=0",
)  # fmt: skip
EMA = ("callbacks=[ema]", "callbacks.ema.decay=0.9")
NEVER_BETTER = ("callbacks=[early_stopping]", "callbacks.early_stopping.min_delta=1")
"""The first validation improves on minus infinity, and no later one by 1."""


@pytest.fixture
def train(shapes_root, tmp_path, without_pictures):
    """Train a small run in a folder below the test's; its directory."""

    def run(name: str, *overrides: str):
        fcn.train(fcn.compose(*SMALL, f"data.root={shapes_root}", *overrides), tmp_path / name)
        return tmp_path / name

    return run


def checkpoint_of(run, name: str = runs.LAST) -> dict:
    return torch.load(run / name, weights_only=True)


class Spy(pl.Callback):
    """Keep the weights after every step and what can be monitored in each hook."""

    def __init__(self):
        self.weights, self.after_validation, self.at_epoch_end = [], [], []

    def on_train_batch_end(self, trainer, module, *args):
        self.weights.append(copy.deepcopy(module.network.state_dict()))

    def on_validation_end(self, trainer, module):
        self.after_validation.append({name: value.item() for name, value in trainer.callback_metrics.items()})

    def on_train_epoch_end(self, trainer, module):
        self.at_epoch_end.append({name: value.item() for name, value in trainer.callback_metrics.items()})


@pytest.fixture
def spy(monkeypatch):
    """A callback that is called like those of the group callbacks."""
    watched = Spy()
    monkeypatch.setattr("fcn.training.callback_options.ModelSummaryConfig.build", lambda *_: watched)
    return watched


@pytest.mark.slow
def test_callbacks_monitor_the_scalars_of_the_summary(train, spy):
    run = train("run", "callbacks=[model_summary]", "data.protocol=d2l")
    rows = runs.read_metrics(run)
    metrics = runs.final_metrics(run)
    assert len(spy.at_epoch_end) == 2
    for row, seen in zip(rows, spy.at_epoch_end, strict=True):
        assert set(seen) == set(row) - {"epoch", "step"}
        for name, value in seen.items():
            assert float(row[name]) == pytest.approx(value, rel=1e-12, nan_ok=True), name
    for seen, names in (
        (spy.at_epoch_end[-1], set(metrics)),
        (spy.after_validation[-1], {name for name in metrics if name.startswith(("val/", "d2l/test_"))}),
    ):
        assert {name: seen[name] for name in names} == pytest.approx(
            {name: metrics[name] for name in names}, rel=0, abs=0, nan_ok=True
        )
    config = runs.load_config(run)
    of_network = ("upsampling/", "tflops")  # known when the network has been built
    assert set(scalar_names(config)) == {name for name in spy.at_epoch_end[-1] if not name.startswith(of_network)}


def test_average_is_validated_saved_and_loaded(train, spy):
    """Against torch's AveragedModel of the weights after every step."""
    run = train("run", "callbacks=[ema,model_summary]", "callbacks.ema.decay=0.5", "callbacks.ema.warmup=false")
    task = SegmentationTask(runs.load_config(run))
    average = AveragedModel(task.network, avg_fn=get_ema_avg_fn(0.5))
    for weights in spy.weights:
        task.network.load_state_dict(weights)
        average.update_parameters(task.network)
    expected = average.module.state_dict()
    saved = checkpoint_of(run)
    for name, weight in expected.items():
        torch.testing.assert_close(saved["state_dict"][name], weight)
        assert torch.equal(saved["current_model_state"][name], spy.weights[-1][name])
    assert any(not torch.equal(weight, spy.weights[-1][name]) for name, weight in expected.items())
    loaded = fcn.load(run / runs.LAST).network.state_dict()
    assert all(torch.equal(loaded[name], saved["state_dict"][name]) for name in loaded)
    best = runs.read_summary(run)["best"]
    assert checkpoint_of(run, runs.BEST)["global_step"] == best["step"]


def test_run_without_improvement_is_stopped_and_says_why(train, capsys):
    run = train("run", *NEVER_BETTER, "callbacks.early_stopping.patience=2", "epochs=6")
    assert [row["epoch"] for row in runs.read_metrics(run)] == ["0", "1", "2"]
    summary = runs.read_summary(run)
    first = float(runs.read_metrics(run)[0]["val/mean_iou"])
    reason = f"val/mean_iou has not improved on {first:.4g} in 2 validations"
    assert (summary["status"], summary["stopped_early"]) == ("finished", reason)
    assert f"stopped  early, after step 12: {reason}" in capsys.readouterr().out
    assert runs.load_config(run).epochs == 6
    fcn.train(runs.load_config(run), run)
    assert capsys.readouterr().out == f"{run} is finished ({reason}): nothing to do\n"


def test_early_stopping_counts_validations(train):
    """With a validation every second epoch, a training score is checked there too, and the last epoch is validated."""
    monitor = ("callbacks.early_stopping.monitor=train/loss", "callbacks.early_stopping.patience=1")
    run = train(
        "run", *NEVER_BETTER, *monitor, "callbacks.early_stopping.min_delta=9", "epochs=6", "trainer.val_every=2"
    )
    assert [bool(row["val/mean_iou"]) for row in runs.read_metrics(run)] == [False, True, False, True]


@pytest.mark.slow
def test_threshold_ends_the_run(train):
    run = train("run", "callbacks=[early_stopping]", "callbacks.early_stopping.stopping_threshold=0.01", "epochs=3")
    (row,) = runs.read_metrics(run)
    reached = f"val/mean_iou reached {float(row['val/mean_iou']):.4g}, better than 0.01"
    assert runs.read_summary(run)["stopped_early"] == reached


@pytest.mark.slow
@pytest.mark.parametrize(
    "stopping", [("callbacks.early_stopping.patience=1",), ("callbacks.early_stopping.stopping_threshold=0.01",)]
)
def test_run_killed_after_its_last_checkpoint_is_not_trained_further(train, monkeypatch, stopping):
    """The checkpoint is written, the summary is not, and Lightning does not save that training was to be stopped."""
    uninterrupted = train("uninterrupted", *NEVER_BETTER, *stopping, "epochs=4")
    last_epoch = len(runs.read_metrics(uninterrupted))
    conclude_epoch = fcn.training.recording.Recording.conclude_epoch

    def killed(recording, trainer):
        if trainer.current_epoch + 1 == last_epoch:
            raise SystemExit(137)
        conclude_epoch(recording, trainer)

    with monkeypatch.context() as patched:
        patched.setattr(fcn.training.recording.Recording, "conclude_epoch", killed)
        with pytest.raises(SystemExit):
            train("killed", *NEVER_BETTER, *stopping, "epochs=4")
    run = train("killed", *NEVER_BETTER, *stopping, "epochs=4")
    assert_identical(run, uninterrupted)
    assert runs.read_summary(run)["stopped_early"] == runs.read_summary(uninterrupted)["stopped_early"]


COMPONENT = """
import threading
import pytorch_lightning as pl
import fcn
from fcn.config import CallbackConfig

class Counter(pl.Callback):
    def __init__(self, fails_at, state):
        self.fails_at, self.count, self.state = fails_at, 0, state
    def on_train_batch_end(self, trainer, *args):
        self.count += 1
        self.log("mine/count", float(self.count))
        if self.count == self.fails_at:
            raise ZeroDivisionError("in my callback")
    def state_dict(self):
        return {"count": self.count, **self.state}
    def load_state_dict(self, state):
        self.count = state["count"]

@fcn.component("callbacks", "counter")
class CounterConfig(CallbackConfig):
    \"\"\"Counts steps.\"\"\"
    fails_at: int = fcn.setting(0, "step", low=0)
    lock: bool = fcn.setting(False, "keep a lock")
    def build(self, config, run_dir):
        return Counter(self.fails_at, {"lock": threading.Event()} if self.lock else {})
"""


@pytest.fixture(scope="module")
def counting(tmp_path_factory, module_command):
    """Command in whose folder is a callback from outside."""
    (module_command.folder / "counting.py").write_text(COMPONENT)

    def run(*overrides: str):
        small = (*SMALL, f"data.root={module_command.data}", "trainer.log_every=1")
        return module_command(*small, *overrides, FCN_COMPONENTS="counting")

    run.folder = module_command.folder
    return run


@pytest.mark.slow
def test_callback_from_outside_is_resumed_and_logs_scalars(counting, module_command):
    done = counting("callbacks=[counter,early_stopping]", "callbacks.early_stopping.monitor=mine/count", "name=counted")
    assert done.returncode == 0, done.stderr
    run = module_command.run_of("counted")
    key = next(name for name in checkpoint_of(run)["callbacks"] if "Counter" in name)
    assert checkpoint_of(run)["callbacks"][key] == {"count": 8}
    longer = module_command(f"resume={run}", "epochs=3", "allow=[epochs]", FCN_COMPONENTS="counting")
    assert longer.returncode == 0, longer.stderr
    assert checkpoint_of(run)["callbacks"][key] == {"count": 12}
    events = EventAccumulator(str(run))
    events.Reload()
    assert [(point.step, point.value) for point in events.Scalars("mine/count")] == [(n, n) for n in range(1, 13)]


@pytest.mark.slow
def test_exception_of_a_callback_from_outside_names_its_place(counting, module_command):
    done = counting("callbacks=[counter]", "callbacks.counter.fails_at=3", "name=failing")
    run = module_command.run_of("failing")
    (line,) = done.stderr.splitlines()
    log = run.relative_to(module_command.folder) / "train.log"
    assert re.fullmatch(
        rf"error: ZeroDivisionError: in my callback \(.*/counting.py:14\); this is an error in counting sha256:\w+: "
        rf"see the traceback in {re.escape(str(log))}, or run again with HYDRA_FULL_ERROR=1",
        line,
    )
    assert "Traceback" in (run / "train.log").read_text()
    assert runs.read_summary(run)["status"] == "failed"


def test_callback_whose_state_is_no_plain_data_is_refused_before_the_first_step(counting, module_command):
    done = counting("callbacks=[counter]", "callbacks.counter.lock=true", "name=locked")
    assert re.fullmatch(
        r"error: the state of the callback Counter must be plain data \(tensors, numbers, texts, lists, dicts\), but "
        r"has a value that cannot be saved \(cannot pickle '_thread.lock' object\); change what its method state_dict "
        r"returns\n",
        done.stderr,
    )
    assert not list(module_command.run_of("locked").glob("checkpoints/*"))


@pytest.mark.slow
def test_resumed_run_is_not_changed_if_the_state_of_a_callback_is_refused(counting, module_command):
    assert counting("callbacks=[counter]", "epochs=1", "name=plain").returncode == 0
    run = module_command.run_of("plain")
    files = [path for path in run.rglob("*") if path.is_file() and path.name not in (runs.LOG, runs.LOCK)]
    before = {path: path.read_bytes() for path in files}
    resumed = (f"resume={run}", "epochs=2", "callbacks.counter.lock=true", "allow=[epochs,callbacks]")
    assert "state of the callback Counter" in module_command(*resumed, FCN_COMPONENTS="counting").stderr
    assert [path for path, content in before.items() if path.read_bytes() != content] == []
    assert not (run / BACKUP).exists()


BROKEN = """
import pytorch_lightning as pl
import torch
import fcn
from fcn.config import CallbackConfig

class Broken(torch.autograd.Function):
    @staticmethod
    def forward(context, logits):
        return logits.clone()
    @staticmethod
    def backward(context, gradient):
        return gradient * float("nan")

class Breaking(pl.Callback):
    def on_train_start(self, trainer, module):
        module.network.model.register_forward_hook(lambda model, inputs, logits: Broken.apply(logits))

@fcn.component("callbacks", "breaking")
class BreakingConfig(CallbackConfig):
    \"\"\"Makes the backward pass of the network give NaN.\"\"\"
    def build(self, config, run_dir):
        return Breaking()
"""


@pytest.mark.slow
def test_anomaly_names_the_operation_and_logs_where_it_was_called(module_command):
    (module_command.folder / "breaking.py").write_text(BROKEN)
    overrides = ("callbacks=[breaking]", "trainer.detect_anomaly=true", "name=anomaly")
    done = module_command(*SMALL, f"data.root={module_command.data}", *overrides, FCN_COMPONENTS="breaking")
    run = module_command.run_of("anomaly")
    log = run.relative_to(module_command.folder) / "train.log"
    assert done.stderr == (
        f"error: the backward pass of BrokenBackward gave NaN; the traceback in {log} shows where it was called "
        "(trainer.detect_anomaly)\n"
    )
    assert "lambda model, inputs, logits: Broken.apply(logits)" in (run / "train.log").read_text()


@pytest.mark.slow
def test_profiler_records_three_training_steps(train):
    run = train("run", "trainer.profiler=pytorch", "data.shapes.num_train=24", "epochs=1")
    trace = json.loads((run / "profile/operations.pt.trace.json").read_text())
    steps = {event["name"] for event in trace["traceEvents"] if event.get("name", "").startswith("ProfilerStep#")}
    assert len(steps) == 3
    table = (run / "profile/operations.txt").read_text()
    assert "aten::convolution_backward" in table
    assert len([line for line in table.splitlines() if "%" in line and not line.lstrip().startswith("Name")]) == 10


@pytest.mark.parametrize("name", ["simple", "advanced"])
def test_profiler_of_the_hooks_writes_its_report(train, name):
    run = train("run", f"trainer.profiler={name}", "epochs=1", "data.shapes.num_train=8")
    (report,) = (run / "profile").iterdir()
    assert "[Strategy]SingleDeviceStrategy.training_step" in report.read_text()


@pytest.mark.slow
def test_run_whose_time_is_over_is_resumed_bit_for_bit(train, monkeypatch, capsys):
    uninterrupted = train("uninterrupted", "epochs=1")
    clock = SimpleNamespace(monotonic=functools.partial(next, itertools.count()))  # a second at every call
    with monkeypatch.context() as patched:
        patched.setattr("fcn.training.checkpointing.time", clock)
        with pytest.raises(SystemExit) as end:
            train("run", "epochs=1", "trainer.max_minutes=0.1")
    run = uninterrupted.with_name("run")
    assert end.value.code == 143
    assert 0 < checkpoint_of(run)["global_step"] < 4
    assert runs.read_status(run) is runs.Status.interrupted
    assert "trainer.max_minutes (=0.1) have passed\ninterrupted at step" in capsys.readouterr().out
    assert_identical(train("run", "epochs=1"), uninterrupted)


@pytest.mark.slow
def test_early_stopped_run_continues_with_more_patience_only(train, monkeypatch, capsys):
    stopping = (*NEVER_BETTER, "callbacks.early_stopping.patience=1")
    patient = train("patient", *stopping[:-1], "callbacks.early_stopping.patience=3", "epochs=6")
    run = train("run", *stopping, "epochs=6")
    files = {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path.name != runs.LOCK}
    monkeypatch.chdir(run.parent)
    status, _, err = type_in(monkeypatch, capsys, "resume=run", "epochs=9", "allow=[epochs]")
    reason = runs.read_summary(run)["stopped_early"]
    assert (status, err) == (
        1,
        f"error: resume (=run) is finished, because {reason}; to continue it, change the keys of the callback that "
        "stopped it, such as callbacks.early_stopping.patience\n",
    )
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and "lock" not in path.name} == files
    key = "callbacks.early_stopping.patience"
    status, _, err = type_in(monkeypatch, capsys, "resume=run", f"{key}=3", f"allow=[{key}]")
    assert (status, err) == (0, "")
    assert_identical(run, patient)


@pytest.mark.slow
def test_average_is_added_and_removed_on_resume(train, monkeypatch, capsys):
    """Without the average, training continues from the weights that were trained, not from their average."""
    run = train("run", *EMA, "epochs=1")
    trained = checkpoint_of(run)["current_model_state"]
    shorter = ("optim.weight_decay=0", "lr=0", "allow=[callbacks,epochs,lr,optim]")
    status, _, err = type_in(monkeypatch, capsys, f"resume={run}", "epochs=2", "callbacks=[]", *shorter)
    assert (status, err) == (0, "")
    state = checkpoint_of(run)
    assert "current_model_state" not in state
    assert all(torch.equal(weight, trained[name]) for name, weight in state["state_dict"].items())
    status, _, err = type_in(monkeypatch, capsys, f"resume={run}", "epochs=3", "callbacks=[ema]", *shorter)
    assert (status, err) == (0, "")
    state = checkpoint_of(run)
    assert state["callbacks"]["WeightAveraging"] == {"num_updates": 4}
    assert all(torch.equal(weight, trained[name]) for name, weight in state["state_dict"].items())

"""The presets of the group `debug`: short runs that answer a question about a pipeline."""

import json
import re

import pytest

from fcn import runs
from fcn.config import AugmentationConfig
from fcn.config.composition import CONF, compose
from tests.commands import only_entry, type_in

SMALL = ("data.crop_size=[64,64]", "backbone=squeezenet1_0", "trainer=cpu", "data.shapes.num_train=16",
         "data.shapes.num_val=5")  # fmt: skip


@pytest.fixture
def debug(tmp_path, shapes_root, monkeypatch, capsys):
    """Return a function that executes a preset with further overrides, and returns its run directory and output."""
    monkeypatch.chdir(tmp_path)

    def execute(preset, *overrides):
        arguments = (f"debug={preset}", f"data.root={shapes_root}", "name=x", *SMALL, *overrides)
        status, out, err = type_in(monkeypatch, capsys, *arguments)
        assert (status, err) == (0, "")
        return only_entry(tmp_path / "outputs" / "x"), out

    return execute


def test_fast_is_one_epoch_with_everything_on(debug):
    run, out = debug("fast")
    assert "data     shapes: 16 training and 5 validation images" in out
    assert "steps    1 epochs of 4 steps, 4 images per step" in out
    assert [row["step"] for row in runs.read_metrics(run)] == ["4"]
    assert {"best.ckpt", "last.ckpt"} <= {path.name for path in (run / "checkpoints").iterdir()}
    assert (run / runs.SAMPLES / "epoch_001.png").is_file()
    assert (run / runs.CURVES).is_file()
    assert list(run.glob("events.out.*"))


@pytest.mark.parametrize("experiment", sorted(path.stem for path in (CONF / "experiment").glob("*.yaml")))
@pytest.mark.parametrize(
    "preset", ["overfit", *(pytest.param(name, marks=pytest.mark.slow) for name in ("fast", "profile", "anomaly"))]
)
def test_presets_compose_with_every_experiment(preset, experiment):
    config = compose(f"debug={preset}", f"experiment={experiment}")
    if preset == "fast":
        assert (config.epochs, config.steps, config.data.limit) == (1, None, 16)
    if preset == "overfit":
        assert config.data.augmentation == AugmentationConfig()  # which changes nothing
        assert list(config.callbacks) == ["overfit"]
    assert config.trainer.detect_anomaly == (preset == "anomaly")
    assert (config.trainer.profiler is not None) == (preset == "profile")


def test_overfit_keeps_other_callbacks():
    config = compose("debug=overfit", "callbacks=[ema]", "callbacks.overfit.mean_iou=0.5")
    assert sorted(config.callbacks) == ["ema", "overfit"]


def test_overfit_ends_when_its_images_are_learned(debug):
    run, out = debug("overfit", "trainer.val_every_steps=2", "callbacks.overfit.mean_iou=0.01")
    learned = re.search(r"^overfit  learned: train mIoU (0\.\d+) on 4 images after step 2;", out, re.M)
    assert learned
    assert float(learned[1]) >= 0.01
    assert "stopped  early, after step 2: train mIoU" in out
    assert runs.read_status(run) is runs.Status.finished
    assert runs.read_metrics(run)[-1]["val/mean_iou"]  # the last epoch is validated


def test_overfit_says_that_it_did_not_work(debug):
    _, out = debug("overfit", "steps=2", "trainer.val_every_steps=2", "lr=0")
    assert re.search(
        r"^overfit  not learned: train mIoU 0\.\d+ on 4 images after step 2 is below 0\.9; look at", out, re.M
    )


@pytest.mark.exhaustive
def test_overfit_learns_the_synthetic_dataset(debug):
    _, out = debug("overfit", "data.crop_size=[96,96]", "backbone=resnet18")
    assert "overfit  learned: " in out


@pytest.mark.slow
def test_profile_writes_a_trace_and_logs_the_most_expensive_operations(debug):
    run, out = debug("profile", "batch_size=4")
    trace = json.loads((run / "profile" / "operations.pt.trace.json").read_text())
    names = {event.get("name") for event in trace["traceEvents"]}
    assert "aten::convolution_backward" in names
    lines = re.findall(r"^ +([\d.]+) %  ([\d.]+) s  (\d+) calls of (.+)$", out, re.M)
    assert len(lines) == 10
    shares = [float(share) for share, *_ in lines]
    assert shares == sorted(shares, reverse=True)
    assert 30 < sum(shares) <= 100
    assert "aten::convolution_backward" in {name for *_, name in lines}


def test_anomaly_trains(debug):
    run, _ = debug("anomaly", "epochs=1", "batch_size=4")
    assert runs.read_status(run) is runs.Status.finished

"""Files and output of one tiny run of `python train.py`."""

import csv
import json
import re

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import fcn
from fcn import config as configuration
from fcn import runs
from fcn.config.choices import Init
from fcn.data.shapes import CLASSES
from fcn.training.task import SegmentationTask
from tests.commands import TINY, train_in_process


@pytest.fixture(scope="module")
def tiny(module_command):
    """Directory of a finished run, and the completed command."""
    done = module_command(*TINY, f"data.root={module_command.data}", "name=tiny", "model.init=xavier")
    assert done.returncode == 0, done.stderr
    return module_command.run_of("tiny"), done


@pytest.fixture(scope="module")
def events(tiny):
    accumulator = EventAccumulator(str(tiny[0]), size_guidance={"images": 0, "scalars": 0})
    accumulator.Reload()
    return accumulator


def test_standard_error_is_empty(tiny):
    assert tiny[1].stderr == ""


def test_run_header_names_network_and_data_and_how_to_switch_to_voc(tiny):
    head = "\n".join(tiny[1].stdout.splitlines()[:6])
    assert "fcn32s on squeezenet1_0 (weights: none), xavier upsampling" in head
    assert "shapes: 16 training and 5 validation images, 6 classes" in head
    assert "built-in synthetic dataset. For Pascal VOC: python train.py experiment=d2l" in head


def test_last_lines_have_final_metrics_and_speed(tiny):
    run, done = tiny
    metrics = json.loads((run / "summary.json").read_text())["metrics"]
    last, speed = done.stdout.splitlines()[-2:]
    scores = r"loss \d+\.\d{3}, train acc \d\.\d{3}, val acc \d\.\d{3}, val mIoU \d\.\d{3}"
    assert re.fullmatch(scores, last)
    times = r"\d+\.\d images/s on 1 x CPU .* \(\d+ cores\), \d+ % of the time waiting for data"
    assert re.fullmatch(rf"{times}, [\d.e-]+ TFLOP/s, peak memory \d+ MiB", speed)
    assert f"val mIoU {metrics['val/mean_iou']:.3f}" in last


def test_run_directory_has_all_files(tiny):
    run, _ = tiny
    files = {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}
    (event_file,) = {name for name in files if name.startswith("events.out.tfevents")}
    assert files - {event_file, "code.diff"} == {  # code.diff is written if this checkout has changes
        "config.yaml",
        ".hydra/overrides.yaml",
        ".lock",
        "summary.json",
        "metrics.csv",
        "curves.png",
        "train.log",
        "checkpoints/best.ckpt",
        "checkpoints/previous.ckpt",
        "checkpoints/last.ckpt",
        "samples/epoch_001.png",
        "samples/epoch_002.png",
    }


def test_config_is_resolved(tiny):
    config = configuration.read_config(tiny[0] / "config.yaml")
    assert (config.name, config.model.init, config.batch_size) == ("tiny", Init.xavier, 8)
    assert "model.init=xavier" in (tiny[0] / ".hydra/overrides.yaml").read_text()


def test_summary_has_results_and_provenance(tiny):
    summary = json.loads((tiny[0] / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert {
        "train/loss", "train/pixel_accuracy", "val/loss", "val/pixel_accuracy", "val/mean_accuracy", "val/mean_iou",
        "val/fw_iou",
    } <= set(summary["metrics"])  # fmt: skip
    assert summary["best"]["checkpoint"] == "checkpoints/best.ckpt"
    assert summary["best"]["val/mean_iou"] >= summary["metrics"]["val/mean_iou"]
    assert summary["world_size"] == 1
    assert summary["images_per_second"] > 0
    assert 0 <= summary["data_wait"] < 1
    assert 0 < summary["tflops"] < 10
    assert 100 < summary["memory_mib"] < 100_000
    assert "model.init=xavier" in summary["overrides"]
    assert summary["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert summary["git_dirty"] == (tiny[0] / "code.diff").exists()
    assert summary["hardware"]["threads"] == 1
    assert {name: entry["images"] for name, entry in summary["data"].items()} == {"train": 16, "val": 5}
    assert summary["history"] == []


def test_metrics_csv_tensorboard_and_summary_agree(tiny, events):
    run, _ = tiny
    with open(run / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    metrics = json.loads((run / "summary.json").read_text())["metrics"]
    assert [(row["epoch"], row["step"]) for row in rows] == [("0", "2"), ("1", "4")]
    for name, value in metrics.items():
        np.testing.assert_equal(float(rows[-1][name]), value)
    for name in rows[0].keys() - {"epoch", "step"}:
        points = {point.step: point.value for point in events.Scalars(name)}
        assert len(points) == len(events.Scalars(name)), name
        np.testing.assert_allclose([points[2], points[4]], [float(row[name]) for row in rows], rtol=1e-6)
        assert (name in metrics) == name.startswith(("train/", "val/")), name


def test_tensorboard_has_diagnostics(tiny, events):
    tags = set(events.Tags()["scalars"])
    assert {f"val/iou/{name}" for name in CLASSES} <= tags
    assert {"lr", "gradient_norm", "upsampling/drift/upscore", "best/mean_iou"} <= tags
    assert {"images_per_second", "data_wait", "tflops"} <= tags
    assert 100 < events.Scalars("memory_mib")[-1].value < 100_000
    best = json.loads((tiny[0] / "summary.json").read_text())["best"]
    assert events.Scalars("best/mean_iou")[-1].value == pytest.approx(best["val/mean_iou"], rel=1e-6)
    # Xavier kernels are small, so their distance to the bilinear kernels is about the norm of the latter.
    assert events.Scalars("upsampling/drift/upscore")[0].value == pytest.approx(1, abs=0.1)


def test_gradient_norm_is_that_of_the_step(shapes_root, tmp_path):
    """One step of plain gradient descent moves the weights by lr times the gradient."""
    plain = ("optim=sgd", "optim.momentum=0", "optim.weight_decay=0", "schedule=constant", "schedule.warmup_steps=0")
    one_step = ("backbone=squeezenet1_0", "data.shapes.num_train=8", "data.shapes.num_val=1", "epochs=1", "lr=0.5")
    config = fcn.compose(*TINY, f"data.root={shapes_root}", *plain, *one_step, "trainer=cpu", "trainer.log_every=10")
    pl.seed_everything(config.seed, verbose=False)
    before = SegmentationTask(config).state_dict()
    fcn.train(config, tmp_path / "run")
    after = torch.load(tmp_path / "run/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    distance = sum((after[name].double() - before[name].double()).square().sum() for name in before) ** 0.5
    (row,) = runs.read_metrics(tmp_path / "run")
    assert float(row["gradient_norm"]) == pytest.approx(float(distance) / 0.5, rel=1e-4)


def test_step_curves_have_a_point_every_log_every_steps(events):
    for tag in ("train/loss_step", "images_per_second_step", "gradient_norm", "lr"):
        assert [point.step for point in events.Scalars(tag)] == [1, 2, 3, 4]


def test_images_are_logged_at_every_validation(tiny, events):
    assert set(events.Tags()["images"]) == {"val/samples", "val/confusion_matrix", "upsampling/kernels"}
    for tag in events.Tags()["images"]:
        assert [picture.step for picture in events.Images(tag)] == [2, 4]
    with Image.open(tiny[0] / "samples/epoch_002.png") as sheet:
        assert min(sheet.size) > 200


@pytest.mark.exhaustive
def test_a_long_run_draws_ten_pictures(tmp_path, shapes_root):
    overrides = ("epochs=null", "steps=12", "trainer.val_every_steps=1", "trainer.sample_images=1")
    run = train_in_process(tmp_path / "run", shapes_root, *overrides)
    drawn = [2, 3, 4, 5, 6, 8, 9, 10, 11, 12]
    assert sorted(path.name for path in (run / "samples").iterdir()) == [f"step_{step:06d}.png" for step in drawn]
    events = EventAccumulator(str(run), size_guidance={"images": 0}).Reload()
    for tag in ("val/samples", "val/confusion_matrix", "upsampling/kernels"):
        assert [picture.step for picture in events.Images(tag)] == drawn
    assert len(runs.read_metrics(run)) == 12


def test_checkpoints_are_plain_data(tiny):
    for name in ("best", "last"):
        content = torch.load(tiny[0] / f"checkpoints/{name}.ckpt", weights_only=True)
        assert content["config"]["model"]["init"] == "xavier"
        assert "model.upscore.weight" in content["state_dict"]


def test_predictor_loads_from_run_directory_or_checkpoint(tiny, tmp_path):
    moved = tmp_path / "elsewhere.ckpt"
    moved.write_bytes((tiny[0] / "checkpoints/best.ckpt").read_bytes())
    image = Image.effect_noise((47, 33), 60).convert("RGB")
    predictor = fcn.load(tiny[0])
    assert predictor.logits(image).shape == (6, 33, 47)
    mask = predictor.predict(np.asarray(image))
    assert (mask.shape, mask.dtype) == ((33, 47), np.uint8)
    np.testing.assert_array_equal(mask, predictor.logits(image).argmax(0))
    np.testing.assert_array_equal(mask, fcn.load(moved).predict(image))


def test_resume_of_finished_run_changes_nothing(tiny, module_command):
    run, _ = tiny
    before = (run / "checkpoints/last.ckpt").stat().st_mtime_ns
    again = module_command(f"resume={run}")
    assert again.returncode == 0
    assert "is finished: nothing to do" in again.stdout
    assert (run / "checkpoints/last.ckpt").stat().st_mtime_ns == before

"""Comparison of a run with its copy, on run directories made by hand; configuration of a copy."""

import json
import math

import pytest
import torch

from fcn import config as configuration
from fcn import runs
from fcn.config import Config, ConfigError, TrainerConfig
from fcn.config.choices import Accelerator, Precision
from fcn.data.dataset_options import ShapesData
from fcn.runs.checkpoints import CheckpointError
from fcn.runs.rerun import RunDiffers, compare_with_copy, format_report, prepare_copy, report_differences

WEIGHTS = {
    "model.score.weight": torch.linspace(-1, 1, 12).reshape(3, 4, 1, 1),
    "model.norm.num_batches_tracked": torch.tensor(7),
    "model.norm.running_mean": torch.tensor([0.5, math.nan, -0.0]),
}
DEFAULTS = configuration.to_container(Config(name="mine"))
METRICS = {"train/loss": 1.25, "val/loss": 2.5, "val/iou/cat": math.nan}
ORIGIN = {
    "git_commit": "a" * 40,
    "git_diff_sha256": None,
    "data": {"train": {"images": 16, "sha256": "b" * 64}},
    "versions": {"torch": "2.15.0", "numpy": "2.4.6"},
    "world_size": 1,
    "device": "CPU x (2 cores)",
    "hardware": {"host": "one", "threads": 1},
}
ROWS = [
    {"epoch": 0, "step": 2, "train/loss": 1.5, "val/loss": 3.0, "images_per_second": 10.5},
    {"epoch": 1, "step": 4, "train/loss": 1.25, "val/loss": 2.5, "images_per_second": 11.5},
]


@pytest.fixture
def write(tmp_path):
    """Write a finished run; by default the same one with different measured times."""

    def write(name, *, config=None, weights=WEIGHTS, metrics=METRICS, rows=ROWS, **summary):
        run = tmp_path / name
        (run / "checkpoints").mkdir(parents=True)
        if config:  # the file is only read to prepare or report
            runs.create(run, config, overrides=["lr=0.001"])
        container = configuration.to_container(config) if config else DEFAULTS
        torch.save({"config": container, "state_dict": weights}, run / runs.LAST)
        summary = {"status": "finished", "metrics": metrics, **ORIGIN, "seconds": len(name), **summary}
        runs.write_summary(run, summary)
        runs.write_metrics(run, [{**row, "images_per_second": len(name)} for row in rows])
        return run

    return write


def changed(name, value):
    return {**WEIGHTS, name: value}


def test_identical_copy(write):
    report = compare_with_copy(write("run"), write("copied"))
    assert report["same"] is True
    assert report["weights"] == {"compared": 3, "differing": []}
    assert report["metrics"] == {"compared": 3, "differing": {}}
    assert (report["first"], report["causes"]) == (None, {})


ONE_ULP = WEIGHTS["model.score.weight"].clone()
ONE_ULP[2, 3] = torch.nextafter(torch.tensor(1.0), torch.tensor(2.0))


@pytest.mark.parametrize(
    ("name", "value", "differs"),
    [
        ("model.score.weight", ONE_ULP, True),
        ("model.norm.num_batches_tracked", torch.tensor(8), True),
        ("model.norm.running_mean", torch.tensor([0.5, math.nan, 0.0]), True),
        ("model.norm.running_mean", torch.tensor([0.5, 1.0, -0.0]), True),
        ("model.score.weight", torch.zeros(3, 4), True),
        ("model.score.weight", WEIGHTS["model.score.weight"].double(), True),
        ("model.other", torch.zeros(1), True),
        ("model.score.weight", WEIGHTS["model.score.weight"].contiguous(memory_format=torch.channels_last), False),
    ],
    ids=["one ulp", "count", "minus zero", "was NaN", "shape", "type", "more", "layout"],
)
def test_weights_are_compared_bit_by_bit(write, name, value, differs):
    run, again = write("run"), write("copy", weights=changed(name, value))
    for report in (compare_with_copy(run, again), compare_with_copy(again, run)):
        assert report["weights"]["differing"] == [name] * differs
        assert report["same"] is not differs


def test_metrics_are_compared_exactly(write):
    run = write("run")
    for number, metrics in enumerate(
        [{**METRICS, "val/loss": math.nextafter(2.5, 3)}, {**METRICS, "val/iou/cat": 0.0}]
    ):
        report = compare_with_copy(run, write(f"copy{number}", metrics=metrics))
        assert report["same"] is False
        assert len(report["metrics"]["differing"]) == 1
    assert report["metrics"]["differing"] == {"val/iou/cat": [None, 0.0]}


def test_time_and_memory_are_not_compared(write):
    """The IoU of a class is compared even if its name contains such a word."""
    measured = {"images_per_second": 3.0, "epoch_seconds": 2.0, "train/memory_gib": 1.0}
    run, row = write("run", metrics={**METRICS, **measured}), {**ROWS[0], **measured}
    assert compare_with_copy(run, write("copied", rows=[row, ROWS[1]]))["same"]
    named = compare_with_copy(run, write("memory", metrics={**METRICS, "val/iou/memory": 0.5}))
    assert named["metrics"]["differing"] == {"val/iou/memory": [None, 0.5]}


@pytest.mark.parametrize(
    ("rows", "first"),
    [
        ([ROWS[0], {**ROWS[1], "val/loss": 2.75}], {"epoch": 2, "scalar": "val/loss", "values": ["2.5", "2.75"]}),
        (
            [{**ROWS[0], "val/loss": 2.75}, {**ROWS[1], "train/loss": 9.0}],
            {"epoch": 1, "scalar": "val/loss", "values": ["3.0", "2.75"]},
        ),
        ([{**row, "val/new": 1.0} for row in ROWS], None),
        ([{name: row[name] for name in ("epoch", "step", "train/loss")} for row in ROWS], None),
    ],
)
def test_first_differing_scalar(write, rows, first):
    assert compare_with_copy(write("run"), write("copy", rows=rows))["first"] == first


def test_causes_are_differences_of_configuration_and_origin(write):
    run = write("run")
    config = Config(name="other", lr=0.5, rerun=str(run), data=ShapesData(root="elsewhere"))
    versions = {"torch": "2.16.0", "numpy": "2.4.6", "pillow": "13.0.0"}  # the earlier run did not record pillow's
    again = write("copy", config=config, git_diff_sha256="c" * 64, versions=versions, hardware={"host": "two"})
    assert compare_with_copy(run, again)["causes"] == {
        "lr": [0.001, 0.5],
        "git_diff_sha256": [None, "c" * 64],
        "versions.torch": ["2.15.0", "2.16.0"],
        "hardware.host": ["one", "two"],
    }


def test_report_of_an_identical_copy(write, capsys):
    run = write("run")
    again = write("copy", config=Config(name="mine", rerun=str(run)), hardware={"host": "two", "threads": 1})
    report_differences(again)
    assert capsys.readouterr().out.splitlines() == [
        f"same     all 3 tensors and 3 metrics of {run}, bit for bit",
        "although hardware.host two instead of one",
    ]
    assert json.loads((again / "rerun.json").read_text())["same"] is True


def test_report_of_a_differing_copy_names_likely_causes(write, capsys):
    run = write("run")
    weights = changed("model.score.weight", WEIGHTS["model.score.weight"] + 1)
    config = Config(name="mine", rerun=str(run))
    again = write("copy", config=config, weights=weights, rows=[ROWS[0], {**ROWS[1], "val/loss": 2.75}],
                  metrics={**METRICS, "val/loss": 2.75}, git_commit="d" * 40)  # fmt: skip
    with pytest.raises(RunDiffers, match=r"copy differs from .*run, which it repeats; see .*copy/rerun\.json"):
        report_differences(again)
    assert capsys.readouterr().out.splitlines() == [
        "differs  1 of 3 tensors of the weights",
        "differs  1 of 3 metrics",
        "differs  from epoch 2 on: val/loss 2.75 instead of 2.5",
        f"because? git_commit {'d' * 40} instead of {'a' * 40}",
    ]
    assert json.loads((again / "rerun.json").read_text())["causes"] == {"git_commit": ["a" * 40, "d" * 40]}


def test_report_without_known_cause(write):
    report = compare_with_copy(write("run"), write("copy", metrics={**METRICS, "val/loss": 2.0}))
    assert format_report(report)[-1].startswith("because? configuration, code, data, versions and machine are the same")


def test_original_must_exist_for_the_report(write, tmp_path):
    again = write("copy", config=Config(name="mine", rerun=str(tmp_path / "gone")))
    with pytest.raises(CheckpointError, match=r"gone/checkpoints/last\.ckpt must be a checkpoint"):
        report_differences(again)


def test_copy_has_the_configuration_of_its_run(write):
    config = Config(name="mine", lr=0.25, trainer=TrainerConfig(precision=Precision.bf16, sample_images=2))
    run = write("run", config=config)
    copy, overrides = prepare_copy(Config(rerun=str(run), name="shapes"), [f"rerun={run}"])
    assert configuration.to_container(copy) == {**configuration.to_container(config), "rerun": str(run)}
    assert overrides == ["lr=0.001", f"rerun={run}"]


def test_copy_of_a_copy_names_its_own_run(write):
    first = write("first", config=Config(name="mine", rerun="outputs/earlier"))
    assert prepare_copy(Config(rerun=str(first), name="shapes"), [f"rerun={first}"])[0].rerun == str(first)


def test_allowed_overrides_of_a_copy(write):
    trainer = TrainerConfig(precision=Precision.bf16, sample_images=2)
    run = write("run", config=Config(name="mine", lr=0.25, trainer=trainer))
    requested = Config(
        name="again", rerun=str(run), lr=9.0, data=ShapesData(root="elsewhere"),
        trainer=TrainerConfig(accelerator=Accelerator.cpu, devices=2, log_every=3),
    )  # fmt: skip
    overrides = [f"rerun={run}", "name=again", "data.root=elsewhere", "trainer=ddp_cpu", "trainer.log_every=3"]
    copy, _ = prepare_copy(requested, overrides)
    assert (copy.name, copy.data.root, copy.lr) == ("again", "elsewhere", 0.25)
    assert copy.trainer == TrainerConfig(
        accelerator=Accelerator.cpu, devices=2, precision=Precision.bf16, sample_images=2, log_every=3
    )


@pytest.mark.parametrize("override", ["lr=0.1", "data=voc", "data.root.x=1", "trainers=x", "model/init=xavier"])
def test_other_overrides_of_a_copy_are_errors(write, override):
    run = write("run", config=Config(name="mine"))
    message = rf"rerun \(=.*run\) uses the configuration of the run; remove {override}: only name, data\.root, trainer"
    with pytest.raises(ConfigError, match=message):
        prepare_copy(Config(rerun=str(run), name="x"), [f"rerun={run}", override])


@pytest.mark.parametrize("status", ["interrupted", "failed", "unfinished"])
def test_original_must_be_finished(write, status):
    run = write("run", config=Config(name="mine"), status=status)
    if status == "unfinished":
        (run / runs.SUMMARY).unlink()
    with pytest.raises(ConfigError, match=f"must be a finished run, but is {status}; finish it with resume=.*run"):
        prepare_copy(Config(rerun=str(run), name="x"), [f"rerun={run}"])


def test_original_must_have_its_checkpoint(write):
    run = write("run", config=Config(name="mine"))
    (run / runs.LAST).unlink()
    with pytest.raises(ConfigError, match=r"must hold checkpoints/last\.ckpt to be compared with"):
        prepare_copy(Config(rerun=str(run), name="x"), [f"rerun={run}"])

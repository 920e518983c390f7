"""Training on a GPU: behaviour that other tests cannot check on a CPU."""

import json

import pytest
import pytorch_lightning as pl
import torch

import fcn
from fcn import runs
from fcn.config.choices import Algorithm
from fcn.config.composition import compose
from fcn.data.module import VOCDataModule
from fcn.training.monitors import upsampling_layers
from fcn.training.task import SegmentationTask
from fcn.training.trainer import build_trainer
from tests.commands import TINY

SMALL = (*TINY, "backbone=resnet18")  # with batch norm

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]


@pytest.fixture
def train(tmp_path, shapes_root):
    """Execute a tiny run on one GPU and return its directory."""

    def run(name: str, *overrides: str):
        config = compose(*SMALL, f"data.root={shapes_root}", "trainer=gpu", *overrides)
        fcn.train(config, tmp_path / name)
        return tmp_path / name

    return run


def weights(run):
    return torch.load(run / runs.LAST, weights_only=True)["state_dict"]


class NoWaiting(pl.Callback):
    """Raises an error if a step between two points of the step curves waits for the GPU."""

    steps = 0

    def on_train_batch_start(self, trainer, pl_module, *args):
        if trainer.global_step:  # the first step allocates
            torch.cuda.set_sync_debug_mode("error")

    def on_train_batch_end(self, trainer, pl_module, *args):
        torch.cuda.set_sync_debug_mode("default")
        self.steps += 1


@pytest.mark.parametrize(
    "overrides",
    [
        [],
        ["trainer.accumulate=2", "optim.clip_norm=0.1"],
        ["loss.class_weights=median_frequency", "loss.label_smoothing=0.1"],
        *([f"loss={loss}"] for loss in ("image_sum", "focal", "dice", "cross_entropy_dice", "ohem")),
        ["model.auxiliary_weight=0.4"],
        ["callbacks=[ema]"],
    ],
)
def test_step_does_not_wait_for_the_gpu(shapes_root, tmp_path, overrides):
    """Except with loss=lovasz, which reads the classes of the masks."""
    config = compose(*SMALL, f"data.root={shapes_root}", "trainer=gpu", "trainer.log_every=100", *overrides)
    watch = NoWaiting()
    try:
        callbacks = [option.build(config, tmp_path) for option in config.callbacks.values()]
        build_trainer(config, callbacks=[*callbacks, watch]).fit(SegmentationTask(config), VOCDataModule(config))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert watch.steps == 4


def test_deterministic_runs_are_bit_identical(train):
    one, other = (weights(train(name, "deterministic=true")) for name in ("one", "other"))
    for name, weight in one.items():
        assert torch.equal(weight, other[name]), name


LARGE = ("deterministic=true", "data.crop_size=[320,320]", "batch_size=16", "model.auxiliary_weight=0.4")


def test_step_that_does_not_fit_is_taken_in_parts(train):
    """The memory is limited to 0.7 of the peak of an undivided step."""
    torch.cuda.reset_peak_memory_stats()
    train("whole", *LARGE)
    peak = torch.cuda.max_memory_allocated()
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(0.7 * peak / torch.cuda.get_device_properties(0).total_memory)
    try:
        auto = train("auto", *LARGE, "trainer.accumulate=auto")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    number = runs.read_summary(auto)["accumulate"]
    assert number > 1
    expected = weights(train("number", *LARGE, f"trainer.accumulate={number}"))
    for name, weight in weights(auto).items():
        assert torch.equal(weight, expected[name]), name


def test_activation_checkpointing_saves_memory_and_changes_no_bit(train):
    states, peaks = [], []
    for value in ("false", "true"):
        torch.cuda.reset_peak_memory_stats()
        states.append(weights(train(value, *LARGE, f"trainer.activation_checkpointing={value}")))
        peaks.append(torch.cuda.max_memory_allocated())
    assert peaks[1] < 0.8 * peaks[0]
    for name, weight in states[0].items():
        assert torch.equal(states[1][name], weight), name


def test_run_header_names_precision_and_layout(train):
    log = (train("run") / "train.log").read_text()
    precision = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    assert f"compute  {precision}, channels last, fused adamw, " in log
    assert "cuDNN tuned" in log


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_every_precision_trains(train, precision):
    run = train(precision, f"trainer.precision={precision}", "epochs=4", "lr=0.003")
    rows = runs.read_metrics(run)
    assert float(rows[-1]["train/loss"]) < float(rows[0]["train/loss"])
    assert float(rows[-1]["gradient_norm"]) < 1000  # without the loss scale of fp16, which is 65536 at first
    assert all(weight.dtype is not torch.float16 for weight in weights(run).values())


def test_upsampling_algorithms_give_equal_logits(shapes_root):
    config = compose(*SMALL, f"data.root={shapes_root}", "trainer=gpu")
    task = SegmentationTask(config).cuda().eval()
    images = torch.rand(2, 3, 64, 96, device="cuda")
    logits = []
    with torch.no_grad():
        for algorithm in (Algorithm.transposed, Algorithm.subpixel):
            for layer in upsampling_layers(task.network.model).values():
                layer.algorithm = algorithm
            logits.append(task(images))
    torch.testing.assert_close(*logits, rtol=1e-3, atol=1e-3)  # convolutions may use TF32


def test_gpu_and_cpu_losses_agree(train, tmp_path, shapes_root):
    gpu = json.loads((train("gpu", "trainer.precision=fp32", "deterministic=true") / "summary.json").read_text())
    config = compose(*SMALL, f"data.root={shapes_root}", "trainer=cpu")
    assert fcn.train(config, tmp_path / "cpu")["train/loss"] == pytest.approx(gpu["metrics"]["train/loss"], rel=0.05)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_two_gpus_with_synchronised_batch_norm_equal_one(fresh_command):
    """Compare the training loss: batch statistics are those of the global batch."""
    losses = []
    for name, options in (("one", ["trainer=gpu"]), ("two", ["trainer=ddp", "trainer.devices=2"])):
        run = fresh_command.train(
            "backbone=resnet18", *options, "trainer.sync_batchnorm=true", "trainer.precision=fp32", name=name
        )
        losses.append(json.loads((run / "summary.json").read_text())["metrics"]["train/loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)

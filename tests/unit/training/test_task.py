"""Training step: gradient, precision, reads of the device, resume."""

from dataclasses import replace

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import nn

import fcn
from fcn import runs
from fcn.config import ConfigError, option
from fcn.config.composition import compose
from fcn.data.module import VOCDataModule
from fcn.evaluation import metrics
from fcn.training.monitors import gradient_norm
from fcn.training.task import SegmentationTask
from fcn.training.trainer import build_trainer
from tests.commands import TINY
from tests.identical_runs import assert_identical

# SqueezeNet has no batch norm, whose statistics would be those of a part.
STEP = (*TINY, "trainer=cpu", "epochs=1", "data.augmentation.scale=[0.4,1.0]", "optim=sgd")

pytestmark = pytest.mark.usefixtures("without_pictures")


class FirstGradient(pl.Callback):
    """Stores the gradient of the first step and ends training."""

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.gradient = {name: weight.grad.clone() for name, weight in pl_module.named_parameters()}
        self.batch_loss = pl_module.last_loss
        trainer.should_stop = True


def first_gradient(shapes_root, *overrides):
    config = compose(*STEP, f"data.root={shapes_root}", *overrides)
    pl.seed_everything(0, verbose=False)
    task, seen = SegmentationTask(config), FirstGradient()
    trainer = build_trainer(config, callbacks=[seen])
    trainer.limit_val_batches = 0
    trainer.limit_train_batches = 1
    trainer.fit(task, datamodule=VOCDataModule(config))
    return seen


LOSSES = ["pixel_mean", "image_sum", "pixel_sum", "focal", "dice", "cross_entropy_dice", "lovasz", "ohem"]


@pytest.mark.parametrize(
    "overrides",
    [*([f"loss={loss}"] for loss in LOSSES), ["loss.class_weights=median_frequency"], ["model.auxiliary_weight=0.5"]],
)
def test_accumulated_gradient_equals_gradient_of_whole_batch(shapes_root, overrides):
    whole = first_gradient(shapes_root, *overrides)
    parts = first_gradient(shapes_root, *overrides, "trainer.accumulate=4")
    assert parts.batch_loss == pytest.approx(whole.batch_loss, rel=1e-5)
    for name, gradient in whole.gradient.items():
        scale = gradient.abs().max()
        torch.testing.assert_close(parts.gradient[name] / scale, gradient / scale, rtol=0, atol=2e-4, msg=name)


def test_auxiliary_loss_is_added_with_its_weight(shapes_root):
    """The gradient is linear in the weight; the reported loss is that of the main head."""
    without, one, two = (first_gradient(shapes_root, f"model.auxiliary_weight={weight}") for weight in (0, 0.5, 1))
    assert without.batch_loss == one.batch_loss == two.batch_loss
    for name, gradient in two.gradient.items():
        main = without.gradient.get(name, torch.zeros(()))
        torch.testing.assert_close(one.gradient[name], (main + gradient) / 2, rtol=1e-4, atol=1e-6, msg=name)
    assert two.gradient["network.model.auxiliary.score.weight"].any()
    inside = "network.model.backbone.layers.features.3.squeeze.weight"
    assert not torch.allclose(two.gradient[inside], without.gradient[inside])


def test_accumulation_in_bf16(shapes_root):
    seen = first_gradient(shapes_root, "trainer.accumulate=2", "trainer.precision=bf16")
    whole = first_gradient(shapes_root, "trainer.precision=bf16")
    ours, theirs = (torch.cat([g.flatten() for g in each.gradient.values()]) for each in (seen, whole))
    assert torch.nn.functional.cosine_similarity(ours, theirs, dim=0) > 0.99


def test_frozen_batch_norm_keeps_weights_and_statistics(shapes_root):
    options = ("backbone=resnet18", "model.freeze_batchnorm=true")
    config = compose(*TINY, *options, "trainer=cpu", "epochs=1", f"data.root={shapes_root}")
    task = SegmentationTask(config)
    norms = {name: m for name, m in task.network.model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    before = {name: {key: value.clone() for key, value in norm.state_dict().items()} for name, norm in norms.items()}
    trainer = build_trainer(config, callbacks=[])
    trainer.fit(task, datamodule=VOCDataModule(config))
    assert len(norms) == 20
    assert task.training
    for name, norm in norms.items():
        assert not norm.training
        for key, value in norm.state_dict().items():
            assert torch.equal(value, before[name][key]), (name, key)


@pytest.mark.slow
def test_activation_checkpointing_changes_no_bit_of_a_run(shapes_root, tmp_path):
    """Batch norm, an average of the weights, and several forward passes in a step."""
    options = ("backbone=resnet18", "model.auxiliary_weight=0.4", "callbacks=[ema]", "trainer.accumulate=2")
    for is_checkpointed in ("false", "true"):
        key = f"trainer.activation_checkpointing={is_checkpointed}"
        fcn.train(compose(*TINY, "trainer=cpu", f"data.root={shapes_root}", *options, key), tmp_path / is_checkpointed)
    assert_identical(tmp_path / "true", tmp_path / "false")
    log = (tmp_path / "true" / runs.LOG).read_text()
    assert "upsampling, each step in 2 parts, activation checkpointing" in log


CLIP = ("optim=sgd", "optim.momentum=0", "optim.weight_decay=0", "lr=1", "schedule=constant", "epochs=1")


@pytest.mark.parametrize(
    ("parts", "limit"), [(2, 0.5), *(pytest.param(*case, marks=pytest.mark.slow) for case in [(1, 0.5), (2, 1000.0)])]
)
def test_step_takes_the_clipped_gradient_and_reports_the_norm_before(shapes_root, tmp_path, parts, limit):
    """The reference clips the gradient of a run without clipping with torch's function."""
    one_step = (*CLIP, "batch_size=16", f"trainer.accumulate={parts}")
    plain = first_gradient(shapes_root, *one_step)
    weights = [nn.Parameter(torch.zeros_like(gradient)) for gradient in plain.gradient.values()]
    for weight, gradient in zip(weights, plain.gradient.values(), strict=True):
        weight.grad = gradient.clone()
    norm = nn.utils.clip_grad_norm_(weights, limit)
    config = compose(*STEP, f"data.root={shapes_root}", *one_step, f"optim.clip_norm={limit}")
    fcn.train(replace(config, epochs=0), tmp_path / "initial")
    fcn.train(config, tmp_path / "run")
    before, after = (
        torch.load(tmp_path / run / runs.LAST, weights_only=True)["state_dict"] for run in ("initial", "run")
    )
    for name, weight in zip(plain.gradient, weights, strict=True):
        key = name.removeprefix("network.")
        torch.testing.assert_close(before[key] - after[key], weight.grad, rtol=1e-4, atol=1e-6, msg=name)
    (row,) = runs.read_metrics(tmp_path / "run")
    assert float(row["gradient_norm"]) == pytest.approx(float(norm), rel=1e-6)
    assert float(norm) > 0.5


class Norms(pl.Callback):
    """Stores the norm of the gradient of every step, before and after the module changes it."""

    def __init__(self):
        self.before, self.after = [], []

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.before.append(gradient_norm(pl_module).item())

    def on_train_batch_end(self, trainer, pl_module, *args):
        self.after.append(gradient_norm(pl_module).item())


@pytest.mark.parametrize("name", ["sgd", *(pytest.param(name, marks=pytest.mark.slow) for name in ("adamw", "lion"))])
def test_gradient_of_fp16_is_unscaled_before_it_is_recorded_and_clipped(shapes_root, name):
    """Fused optimisers, such as the first two, unscale the gradient only within their step."""
    own = [override for override in STEP if not override.startswith("optim=")]
    config = compose(*own, f"data.root={shapes_root}", f"optim={name}", "optim.clip_norm=0.5", "batch_size=16")
    norms = []
    for scale in (1.0, 1024.0):
        pl.seed_everything(0, verbose=False)
        trainer = build_trainer(config, callbacks=[step := Norms()])
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        trainer.strategy.precision_plugin = MixedPrecision("16-mixed", "cpu", scaler)
        trainer.limit_val_batches = 0
        trainer.fit(SegmentationTask(config), datamodule=VOCDataModule(config))
        norms += step.before
        assert step.after == pytest.approx([0.5], rel=1e-3)
    assert norms[0] == pytest.approx(norms[1], rel=0.02)
    assert norms[0] > 0.5


@pytest.mark.parametrize(
    "network",
    [
        ["backbone=resnet18"],
        ["backbone=mobilenet_v3_large", "model=torchvision", "model.name=lraspp_mobilenet_v3_large"],
    ],
)
def test_frozen_backbone_keeps_weights_and_statistics(shapes_root, tmp_path, network):
    config = compose(*TINY, "trainer=cpu", f"data.root={shapes_root}", *network, "backbone.trainable=false", "lr=0.1")
    fcn.train(replace(config, epochs=0), tmp_path / "initial")
    fcn.train(config, tmp_path / "run")
    initial, trained = (torch.load(tmp_path / run / runs.LAST, weights_only=True) for run in ("initial", "run"))
    before, after = initial["state_dict"], trained["state_dict"]
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed
    assert not any("backbone." in name for name in changed)
    groups = trained["optimizer_states"][0]["param_groups"]
    assert {group["name"].partition("/")[0] for group in groups} == {"head"}
    modes = {name: module.training for name, module in SegmentationTask(config).network.train().named_modules()}
    assert not any(mode for name, mode in modes.items() if "backbone." in name)
    assert any(modes.values())
    assert [float(row["lr"]) for row in runs.read_metrics(tmp_path / "run")] == [pytest.approx(0.05), 0.0]


READS = ("item", "tolist", "cpu", "numpy", "__float__", "__int__", "__bool__")
"""Methods that copy a value to the host, which waits for a GPU."""


class Watched(pl.Callback):
    """Counts the reads of tensor values in every step, as configured for a GPU."""

    def __init__(self, monkeypatch):
        self.counts, self.watching = [], False
        for name in READS:
            monkeypatch.setattr(torch.Tensor, name, self.counting(getattr(torch.Tensor, name)))

    def counting(self, original):
        def method(tensor, *args, **kwargs):
            if self.watching:
                self.counts[-1] += 1
            return original(tensor, *args, **kwargs)

        return method

    def on_train_batch_start(self, trainer, pl_module, *args):
        pl_module._reads_every_loss = False
        self.counts.append(0)
        self.watching = True

    def on_train_batch_end(self, *args):
        self.watching = False


@pytest.mark.parametrize("options", [[], ["optim=adamw", "loss=image_sum", "trainer.accumulate=2"]])
def test_step_reads_values_only_at_logged_steps(shapes_root, monkeypatch, options):
    """The same is tested on a GPU in tests/gpu."""
    monkeypatch.setattr(metrics, "count_cells", metrics._count_in_lanes)
    config = compose(*STEP, f"data.root={shapes_root}", "trainer.log_every=2", "batch_size=4", *options)
    watched = Watched(monkeypatch)
    trainer = build_trainer(config, callbacks=[watched])
    trainer.limit_val_batches = 0
    trainer.fit(SegmentationTask(config), datamodule=VOCDataModule(config))
    assert [count > 0 for count in watched.counts] == [False, True, False, True]


def test_seed_determines_initial_weights(tmp_path, shapes_root):
    states = []
    for number, seed in enumerate((0, 0, 1)):
        fcn.train(compose(*STEP, f"data.root={shapes_root}", f"seed={seed}", "epochs=0"), tmp_path / str(number))
        states.append(torch.load(tmp_path / str(number) / runs.LAST, weights_only=True)["state_dict"])
    first, again, other = (state["model.score_fr.weight"] for state in states)
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_allowed_changes_take_effect_on_resume(shapes_root, tmp_path):
    """A checkpoint contains the previous learning rate and weight decay."""
    config = compose(*STEP, f"data.root={shapes_root}", "lr=0.1")
    fcn.train(config, tmp_path / "run")
    before = torch.load(tmp_path / "run" / runs.LAST, weights_only=True)["state_dict"]
    changed = replace(config, epochs=2, lr=0.0, allow=["epochs", "lr"])
    runs.set_status(tmp_path / "run", "interrupted")
    fcn.train(changed, tmp_path / "run")
    after = torch.load(tmp_path / "run" / runs.LAST, weights_only=True)
    assert after["global_step"] == 4
    for name, weight in after["state_dict"].items():
        assert torch.equal(weight, before[name]), name
    runs.set_status(tmp_path / "run", "interrupted")
    with pytest.raises(ConfigError, match=r"lr \(=0.5\) was 0.0 in this run; .* add 'allow=\[lr\]'"):
        fcn.train(replace(config, epochs=2, lr=0.5), tmp_path / "run")


def test_keys_that_an_older_checkpoint_lacks_are_compared_with_their_defaults(shapes_root, tmp_path):
    config = compose(*STEP, f"data.root={shapes_root}")
    fcn.train(config, tmp_path)
    checkpoint = torch.load(tmp_path / runs.LAST, weights_only=True)
    del checkpoint["config"]["data"]["augmentation"]["rotation"], checkpoint["config"]["callbacks"]
    torch.save(checkpoint, tmp_path / runs.LAST)
    augmentation = replace(config.data.augmentation, rotation=20.0)
    changes = {
        r"data.augmentation.rotation \(=20.0\) must stay 0.0": {
            "data": replace(config.data, augmentation=augmentation)
        },
        r"callbacks \(=\['ema'\]\) was \[\] in this run": {"callbacks": {"ema": option("callbacks", "ema")}},
    }
    for message, change in changes.items():
        runs.set_status(tmp_path, "interrupted")
        with pytest.raises(ConfigError, match=message):
            fcn.train(replace(config, epochs=2, allow=["epochs"], **change), tmp_path)


def test_several_processes_need_a_run_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match=r"run_dir \(=None\) must be given to several processes"):
        fcn.train(compose(*STEP))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_finished_run_is_extended_by_steps(shapes_root, tmp_path):
    """The new rounds begin where the last one, which was shorter, has ended."""
    steps = ("epochs=null", "batch_size=4", "trainer.val_every_steps=2", "steps=3")
    config = compose(*STEP, f"data.root={shapes_root}", *steps)
    fcn.train(config, tmp_path)
    runs.set_status(tmp_path, "interrupted")
    with pytest.raises(ConfigError, match=r"steps \(=2\) must give more steps than the 3 that the run has made"):
        fcn.train(replace(config, steps=2, allow=["steps"]), tmp_path)
    runs.set_status(tmp_path, "interrupted")
    fcn.train(replace(config, steps=6, allow=["steps"]), tmp_path)
    rows = runs.read_metrics(tmp_path)
    assert [(row["epoch"], row["step"]) for row in rows] == [("0", "2"), ("0", "3"), ("1", "5"), ("1", "6")]
    assert all(row["val/mean_iou"] for row in rows)


def test_run_without_counter_of_manual_steps_cannot_be_resumed(shapes_root, tmp_path):
    """Checkpoints from before manual optimisation count steps in Lightning's automatic loop only."""
    config = compose(*STEP, f"data.root={shapes_root}")
    fcn.train(config, tmp_path)
    path = tmp_path / runs.LAST
    checkpoint = torch.load(path, weights_only=True)
    counters = checkpoint["loops"]["fit_loop"]["epoch_loop.manual_optimization.optim_step_progress"]
    assert counters["total"]["completed"] == checkpoint["global_step"] > 0
    counters["total"] = {"ready": 0, "completed": 0}
    torch.save(checkpoint, path)
    runs.set_status(tmp_path, "interrupted")
    with pytest.raises(ConfigError, match="started by an older version"):
        fcn.train(replace(config, epochs=2, allow=["epochs"]), tmp_path)


@pytest.mark.exhaustive
def test_compiled_network_keeps_results_and_parameter_names(tmp_path, shapes_root):
    """Only training crops use the compiled network; images of other sizes use the original one."""
    states = []
    for compiled in ("false", "true"):
        config = compose(*STEP, f"data.root={shapes_root}", f"compile={compiled}", "lr=0.01")
        fcn.train(config, tmp_path / compiled)
        states.append(torch.load(tmp_path / compiled / runs.LAST, weights_only=True)["state_dict"])
    assert list(states[0]) == list(states[1])
    for name, weight in states[0].items():
        torch.testing.assert_close(states[1][name], weight, rtol=1e-3, atol=1e-6, msg=name)
    assert fcn.load(tmp_path / "true").predict(np.zeros((50, 70, 3), np.uint8)).shape == (50, 70)

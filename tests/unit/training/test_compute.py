"""Precision, memory layout and upsampling algorithm chosen for a device, and their description."""

import contextlib
import copy

import pytest
import torch

from fcn.config import ConfigError
from fcn.config.choices import Algorithm, Precision
from fcn.config.composition import compose
from fcn.models.network import SegmentationNetwork, memory_layout
from fcn.models.upsampling import Upsampling
from fcn.training import compute
from fcn.training.compute import (
    check_batch_norm,
    choose_upsampling,
    chosen_precision,
    compile_network,
    describe,
    select_fastest_upsampling,
)
from fcn.training.task import SegmentationTask


@pytest.fixture(scope="module")
def config():
    return compose("trainer=cpu", "model=fcn16s", "backbone=squeezenet1_0")


def layers_of(task):
    return [module for module in task.network.model.modules() if isinstance(module, Upsampling)]


@pytest.mark.parametrize(
    ("precision", "on_gpu", "supported", "expected"),
    [
        ("auto", False, True, Precision.fp32),
        ("auto", True, True, Precision.bf16),
        ("auto", True, False, Precision.fp32),
        ("bf16", False, False, Precision.bf16),
        ("fp32", True, True, Precision.fp32),
    ],
)
def test_auto_precision_is_bf16_on_supported_gpus(monkeypatch, precision, on_gpu, supported, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: supported)
    assert chosen_precision(compose("trainer=auto", f"trainer.precision={precision}"), on_gpu=on_gpu) is expected


@pytest.mark.parametrize(
    ("capability", "gpu", "accelerator", "expected"),
    [
        ("AVX2", False, "auto", torch.contiguous_format),
        ("AVX2", True, "cpu", torch.contiguous_format),
        ("AVX2", True, "auto", torch.channels_last),
        ("AVX512", False, "cpu", torch.channels_last),
    ],
)
def test_memory_layout_depends_on_device(monkeypatch, config, capability, gpu, accelerator, expected):
    task = SegmentationTask(config)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    chosen = memory_layout(compose(f"trainer.accelerator={accelerator}"))
    assert chosen is expected
    layout = "channels last" if expected is torch.channels_last else "channels first"
    assert layout in describe(compose(f"trainer.accelerator={accelerator}"), task.network.model, torch.device("cpu"))


def test_fastest_algorithm_is_selected_without_changing_network(config, monkeypatch):
    task = SegmentationTask(config)
    next(task.network.model.children()).eval()  # as frozen batch norm is
    modes = {module: module.training for module in task.network.model.modules()}
    before = copy.deepcopy(task.state_dict())
    images = torch.zeros(2, 3, 64, 64)
    for faster in (Algorithm.subpixel, Algorithm.transposed):
        monkeypatch.setattr(
            compute, "_seconds", lambda layer, scores, faster=faster: 1.0 if layer.algorithm is faster else 2.0
        )
        select_fastest_upsampling(task.network.model, images, layers_of(task))
        assert [layer.algorithm for layer in layers_of(task)] == [faster, faster]
    monkeypatch.undo()
    select_fastest_upsampling(task.network.model, images, layers_of(task))  # for real
    assert all(layer.algorithm in (Algorithm.transposed, Algorithm.subpixel) for layer in layers_of(task))
    assert {module: module.training for module in task.network.model.modules()} == modes
    assert all(parameter.grad is None for parameter in task.parameters())
    for name, value in task.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_cpu_algorithm_is_not_measured(config, monkeypatch):
    monkeypatch.setattr(compute, "select_fastest_upsampling", pytest.fail)
    task = SegmentationTask(config)
    choose_upsampling(task.network.model, torch.zeros(1, 3, 64, 64), config)
    assert {layer.algorithm for layer in layers_of(task)} == {Algorithm.auto}
    assert describe(config, task.network.model, torch.device("cpu")).endswith(
        ", fused adamw, transposed and subpixel upsampling"
    )


def test_configured_algorithm_is_used_and_described(config):
    configured = compose(
        "trainer=cpu", "trainer.upsampling=transposed", "trainer.accumulate=2", "compile=true", "optim=sgd"
    )
    task = SegmentationTask(config)
    choose_upsampling(task.network.model, torch.zeros(1, 3, 64, 64), configured)
    assert {layer.algorithm for layer in layers_of(task)} == {Algorithm.transposed}
    line = describe(configured, task.network.model, torch.device("cpu"))
    assert line.endswith(", fused sgd, transposed upsampling, compiled, each step in 2 parts")


def test_settings_that_save_memory_are_described(config):
    chosen = compose("trainer=cpu", "trainer.activation_checkpointing=true", "trainer.accumulate=auto")
    line = describe(chosen, SegmentationTask(config).network.model, torch.device("cpu"))
    assert line.endswith(" upsampling, activation checkpointing")  # the number of parts is logged when it is known


def test_compiling_without_compiler_is_rejected(config, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ConfigError, match=r"compile \(=true\) needs a C\+\+ compiler"):
        compile_network(torch.nn.Identity())


@pytest.mark.parametrize("overrides", [("backbone=resnet18",), ("backbone=timm", "backbone.name=resnet18")], ids=str)
@pytest.mark.parametrize("side", [32, 64])
@pytest.mark.parametrize("number", [1, 2])
def test_batch_norm_over_one_value_is_an_error_before_the_first_step(overrides, side, number):
    config = compose(*overrides, f"data.crop_size=[{side},{side}]", "batch_size=4", "trainer.accumulate=4")
    network, crops = SegmentationNetwork(config), torch.rand(number, 3, side, side)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    is_one_value = side == 32 and number == 1  # of the coarsest map, whose stride is 32
    message = rf"batch_size \(=4\) must give batch norm .* data.crop_size \(=\[{side},{side}\]\); use batch_size=8,"
    with pytest.raises(ConfigError, match=message) if is_one_value else contextlib.nullcontext():
        check_batch_norm(network, crops, config, parts=4)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    with pytest.raises(ValueError, match="more than 1 value") if is_one_value else contextlib.nullcontext():
        network(crops)

"""Precision, memory layout and upsampling algorithm chosen for a device, and their description."""

import copy

import pytest
import torch

from fcn.config import ConfigError
from fcn.config.choices import Algorithm, Precision
from fcn.config.composition import compose
from fcn.models.network import memory_layout
from fcn.models.upsampling import Upsampling
from fcn.training import compute
from fcn.training.compute import (
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


def test_compiling_without_compiler_is_rejected(config, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ConfigError, match=r"compile \(=true\) needs a C\+\+ compiler"):
        compile_network(torch.nn.Identity())

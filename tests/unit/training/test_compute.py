"""What is chosen for a device, and how it is said."""

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
    ("typed", "on_gpu", "computes", "expected"),
    [
        ("auto", False, True, Precision.fp32),
        ("auto", True, True, Precision.bf16),
        ("auto", True, False, Precision.fp32),
        ("bf16", False, False, Precision.bf16),
        ("fp32", True, True, Precision.fp32),
    ],
)
def test_the_precision_is_fast_where_that_is_safe(monkeypatch, typed, on_gpu, computes, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: computes)
    assert chosen_precision(compose("trainer=auto", f"trainer.precision={typed}"), on_gpu=on_gpu) is expected


@pytest.mark.parametrize(
    ("capability", "gpu", "accelerator", "expected"),
    [
        ("AVX2", False, "auto", torch.contiguous_format),
        ("AVX2", True, "cpu", torch.contiguous_format),
        ("AVX2", True, "auto", torch.channels_last),
        ("AVX512", False, "cpu", torch.channels_last),
    ],
)
def test_the_layout_is_what_the_device_is_fast_with(monkeypatch, config, capability, gpu, accelerator, expected):
    task = SegmentationTask(config)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    chosen = memory_layout(compose(f"trainer.accelerator={accelerator}"))
    assert chosen is expected
    said = "channels last" if expected is torch.channels_last else "channels first"
    assert said in describe(compose(f"trainer.accelerator={accelerator}"), task.network.model, torch.device("cpu"))


def test_what_is_measured_decides_and_leaves_the_network_as_it_was(config, monkeypatch):
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


def test_on_a_cpu_nothing_is_measured(config, monkeypatch):
    monkeypatch.setattr(compute, "select_fastest_upsampling", pytest.fail)
    task = SegmentationTask(config)
    choose_upsampling(task.network.model, torch.zeros(1, 3, 64, 64), config)
    assert {layer.algorithm for layer in layers_of(task)} == {Algorithm.auto}
    assert describe(config, task.network.model, torch.device("cpu")).endswith(
        ", fused adamw, transposed and subpixel upsampling"
    )


def test_what_is_typed_is_taken(config):
    typed = compose("trainer=cpu", "trainer.upsampling=transposed", "trainer.accumulate=2", "compile=true", "optim=sgd")
    task = SegmentationTask(config)
    choose_upsampling(task.network.model, torch.zeros(1, 3, 64, 64), typed)
    assert {layer.algorithm for layer in layers_of(task)} == {Algorithm.transposed}
    line = describe(typed, task.network.model, torch.device("cpu"))
    assert line.endswith(", fused sgd, transposed upsampling, compiled, each step in 2 parts")


def test_compiling_without_a_compiler_is_refused(config, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(ConfigError, match=r"compile \(=true\) needs a C\+\+ compiler"):
        compile_network(torch.nn.Identity())

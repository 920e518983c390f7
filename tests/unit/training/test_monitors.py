"""Drift and gradient norm computed by hand; peak memory as reported by the system."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fcn.config import option
from fcn.config.choices import Init, TorchvisionModel
from fcn.models.fcn import FCN
from fcn.models.model_options import TorchvisionModelConfig
from fcn.models.torchvision_models import TorchvisionNetwork
from fcn.training.monitors import gradient_norm, peak_memory_mib, upsampling_drift, upsampling_layers
from tests.unit.models.backbone_cases import build

LAYERS = ["skip_upscores.0", "skip_upscores.1", "upscore"]


def fcn8s(init=Init.bilinear):
    return FCN(build(), option("model", "fcn8s", init=init), num_classes=3)


def reference_drift(weight):
    """Return the relative distance to bilinear interpolation, element by element."""
    size = weight.shape[-1]
    factor = (size + 1) // 2
    difference = norm = 0.0
    for index in np.ndindex(*weight.shape):
        (source, target, *place) = index
        tents = [1 - abs(at - (factor - 1 if size % 2 else factor - 0.5)) / factor for at in place]
        bilinear = tents[0] * tents[1] if source == target else 0.0
        difference += (float(weight[index]) - bilinear) ** 2
        norm += bilinear**2
    return math.sqrt(difference / norm)


def test_drift_is_zero_after_bilinear_initialisation():
    assert upsampling_drift(fcn8s()) == {f"upsampling/drift/{name}": 0.0 for name in LAYERS}


@pytest.mark.parametrize("init", list(Init), ids=str)
def test_drift_is_measured_for_each_layer(init):
    torch.manual_seed(0)
    model = fcn8s(init)
    for layer in upsampling_layers(model).values():
        layer.weight.data += 0.1 * torch.randn_like(layer.weight)
    drifts = upsampling_drift(model)
    for name in LAYERS:
        weight = model.get_submodule(name).weight.detach().numpy()
        assert drifts[f"upsampling/drift/{name}"] == pytest.approx(reference_drift(weight), rel=1e-5)


def test_drift_of_doubled_kernel_is_one():
    model = fcn8s()
    model.upscore.weight.data *= 2
    assert list(upsampling_drift(model).values()) == [0.0, 0.0, pytest.approx(1.0)]


def test_torchvision_networks_have_no_drift():
    backbone = option("backbone", "mobilenet_v3_large", weights="none")
    config = TorchvisionModelConfig(name=TorchvisionModel.lraspp_mobilenet_v3_large)
    assert upsampling_drift(TorchvisionNetwork(config, backbone, num_classes=3)) == {}


def test_gradient_norm_covers_all_parameters_with_gradient():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    module[0].bias.requires_grad_(False)
    module(torch.randn(2, 3, 8, 8)).square().sum().backward()
    gradients = [p.grad.double().numpy().ravel() for p in module.parameters() if p.grad is not None]
    assert len(gradients) == 5
    assert gradient_norm(module).item() == pytest.approx(np.linalg.norm(np.concatenate(gradients)), rel=1e-6)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_peak_memory_of_cpu_equals_system_value():
    status = Path("/proc/self/status").read_text()
    (peak,) = [line.split()[1] for line in status.splitlines() if line.startswith("VmHWM:")]
    assert peak_memory_mib(torch.device("cpu")) == pytest.approx(int(peak) / 1024, rel=0.05)

"""Operations as torch counts them, bytes by hand, and the peaks of the data sheets."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.roofline import Counter, count, peak_of


def test_operations_are_those_that_torch_counts():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 2, 4, stride=2))
    images = torch.randn(2, 3, 12, 10)
    with FlopCounterMode(display=False) as expected:
        network(images).sum().backward()
    counter = count(lambda: network(images).sum().backward())
    assert counter.operations == expected.get_total_flops() > 0


def test_bytes_are_of_inputs_and_outputs_and_a_view_moves_none():
    a, b = torch.zeros(10), torch.zeros(10)
    counter = Counter()
    with counter:
        (a.view(2, 5) + b.view(2, 5)).t()
    assert counter.bytes == 3 * 10 * 4
    with Counter() as one_input:
        a + a
    assert one_input.bytes == 2 * 10 * 4


def test_every_kernel_has_its_own_limit():
    counter = Counter()
    counter.costs = [(100, 4), (2, 40)]  # bound by arithmetic, by memory
    assert counter.limit(rate=10, bandwidth=2) == pytest.approx(100 / 10 + 40 / 2)


def test_the_variant_of_a_gpu_is_told_by_its_name():
    assert peak_of("NVIDIA H200").bandwidth == 4.8e12
    assert peak_of("NVIDIA H100 80GB HBM3").bandwidth == 3.35e12
    assert peak_of("NVIDIA H100 PCIe").bf16 == 756e12
    assert peak_of("NVIDIA A100-SXM4-40GB").bandwidth == 1.555e12
    assert peak_of("NVIDIA GeForce GTX 1080") is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_operations_are_the_same_on_a_gpu():
    network, images = nn.Conv2d(3, 8, 3), torch.randn(2, 3, 12, 10)
    expected = count(lambda: network(images).sum().backward()).operations
    network, images = network.cuda(), images.cuda()
    assert count(lambda: network(images).sum().backward()).operations == expected

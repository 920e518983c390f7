"""Counted operations and bytes, and the limit of a kernel."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.roofline import KernelCounter, count_kernels


def test_operations_equal_flop_counter_mode():
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.ConvTranspose2d(8, 2, 4, stride=2))
    images = torch.randn(2, 3, 12, 10)
    with FlopCounterMode(display=False) as expected:
        network(images).sum().backward()
    counter = count_kernels(lambda: network(images).sum().backward())
    assert counter.operations == expected.get_total_flops() > 0


def test_bytes_are_those_of_inputs_and_outputs_without_views():
    a, b = torch.zeros(10), torch.zeros(10)
    counter = KernelCounter()
    with counter:
        (a.view(2, 5) + b.view(2, 5)).t()
    assert counter.bytes == 3 * 10 * 4
    other = KernelCounter()
    with other:
        a + a
    assert other.bytes == 2 * 10 * 4


def test_every_kernel_is_limited_by_arithmetic_or_memory():
    counter = KernelCounter()
    counter.costs = [(100, 4), (2, 40)]  # bound by arithmetic, by memory
    assert counter.min_seconds(peak_rate=10, bandwidth=2) == pytest.approx(100 / 10 + 40 / 2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_operations_on_a_gpu_equal_those_on_a_cpu():
    network, images = nn.Conv2d(3, 8, 3), torch.randn(2, 3, 12, 10)
    expected = count_kernels(lambda: network(images).sum().backward()).operations
    network, images = network.cuda(), images.cuda()
    assert count_kernels(lambda: network(images).sum().backward()).operations == expected

"""Both formulations of the transposed convolution are one function."""

import pytest
import torch

from benchmarks.upsampling import ours as subpixel
from benchmarks.upsampling import transposed


@pytest.mark.parametrize("stride", [2, 8, 16])
def test_subpixel_gives_output_and_gradients_of_transposed(stride):
    generator = torch.Generator().manual_seed(stride)
    shapes = [(2, 3, 4, 5), (3, 3, 2 * stride, 2 * stride), (3,)]
    inputs = [torch.randn(s, generator=generator, dtype=torch.float64).requires_grad_() for s in shapes]
    ours, theirs = subpixel(*inputs), transposed(*inputs)
    assert ours.shape == (2, 3, 4 * stride, 5 * stride)
    torch.testing.assert_close(ours, theirs)
    gradient = torch.randn(ours.shape, generator=generator, dtype=torch.float64)
    for one, other in zip(
        torch.autograd.grad(ours, inputs, gradient), torch.autograd.grad(theirs, inputs, gradient), strict=True
    ):
        torch.testing.assert_close(one, other)

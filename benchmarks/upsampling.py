"""Transposed convolution of kernel 2s and stride s: torch's against its form as a convolution and a pixel shuffle."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.results import Result
from benchmarks.settings import Settings, Variant
from benchmarks.timing import compare_in_turns, seconds_per_call
from fcn.models.subpixel import Geometry, subpixel

STRIDES = (2, 8, 16, 32)
CLASSES = 21
REFERENCE = "torch's transposed convolution; ours: the sub-pixel form"


def upsample_transposed(scores: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Upsample [N, C, H, W] to [N, C, sH, sW] by torch's operator: kernel 2s, stride s, padding s/2."""
    stride = weight.shape[-1] // 2
    return F.conv_transpose2d(scores, weight, bias, stride=stride, padding=stride // 2)


def upsample_subpixel(scores: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Upsample as `trainer.upsampling=subpixel` does."""
    stride = weight.shape[-1] // 2
    height, width = (stride * side for side in scores.shape[2:])
    return subpixel(scores, weight, bias, Geometry(stride, stride // 2, height, width))


def measure_upsampling(settings: Settings) -> list[Result]:
    """Compare forward and backward of both, for maps of strides 2, 8, 16 and 32 that fill a training crop."""
    variants = [variant for variant in settings.variants if not variant.compile] or [Variant("fp32")]
    return [_compare(settings, variant, stride) for variant in variants for stride in STRIDES]


def _compare(settings: Settings, variant: Variant, stride: int) -> Result:
    # Skips upsample a map of stride 32 to 16, and one of 16 to 8, by a factor of 2.
    height, width = (side // (16 if stride == 2 else stride) for side in settings.size)
    # auto is bf16 on a GPU; on a CPU it depends on the processor, so fp32 is measured.
    in_fp32 = variant.precision == "fp32" or (variant.precision == "auto" and not settings.on_gpu)
    dtype = torch.float32 if in_fp32 else torch.bfloat16
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(settings.device, dtype)

    shapes = [(settings.batch_size, CLASSES, height, width), (CLASSES, CLASSES, 2 * stride, 2 * stride), (CLASSES,)]
    inputs = [random(*shape).requires_grad_() for shape in shapes]
    gradient = random(settings.batch_size, CLASSES, stride * height, stride * width)

    def milliseconds(upsample: Callable[..., Tensor]) -> float:
        step = lambda: torch.autograd.grad(upsample(*inputs), inputs, gradient)  # noqa: E731
        return 1000 * seconds_per_call(step, calls=settings.steps)

    name = f"upsampling by {stride}, {settings.batch_size} x {height}x{width}, {str(dtype).removeprefix('torch.')}"
    ours, theirs = (lambda: milliseconds(upsample_subpixel)), (lambda: milliseconds(upsample_transposed))
    return compare_in_turns(settings, name, REFERENCE, "speedup", ours=ours, theirs=theirs, unit="ms")

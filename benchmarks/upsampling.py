"""The transposed convolution of kernel 2s and stride s against the same as a 2x2 convolution and a pixel shuffle."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.measuring import alternate, seconds_per_call
from benchmarks.results import Findings, Result, speedup
from benchmarks.settings import Settings, Variant
from fcn.models.subpixel import Geometry, subpixel

STRIDES = (2, 8, 16, 32)
CLASSES = 21

Upsample = Callable[[Tensor, Tensor, Tensor], Tensor]


def transposed(scores: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """As torch has it: kernel 2s, stride s, padding s/2; [N, C, H, W] to [N, C, sH, sW]."""
    stride = weight.shape[-1] // 2
    return F.conv_transpose2d(scores, weight, bias, stride=stride, padding=stride // 2)


def ours(scores: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The same by `trainer.upsampling=subpixel`."""
    stride = weight.shape[-1] // 2
    height, width = (stride * side for side in scores.shape[2:])
    return subpixel(scores, weight, bias, Geometry(stride, stride // 2, height, width))


def measure(settings: Settings) -> Findings:
    """Forward and backward of both, for maps of strides 2, 8, 16 and 32 that fill a training crop."""
    variants = [variant for variant in settings.variants if not variant.compile] or [Variant("fp32")]
    return Findings([_of_stride(settings, variant, stride) for variant in variants for stride in STRIDES])


def _of_stride(settings: Settings, variant: Variant, stride: int) -> Result:
    # Skips bring a map of stride 32 to 16, and one of 16 to 8, by a factor of 2.
    height, width = (side // (16 if stride == 2 else stride) for side in settings.size)
    # Half precision wherever a run would have it: what `auto` means depends on the device, and is said in its log.
    dtype = torch.float32 if variant.precision == "fp32" or not (settings.on_gpu or variant.precision == "bf16") else (
        torch.bfloat16
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    shapes = [(settings.batch_size, CLASSES, height, width), (CLASSES, CLASSES, 2 * stride, 2 * stride), (CLASSES,)]
    scores, weight, bias = (
        torch.randn(shape, generator=generator).to(settings.device, dtype).requires_grad_() for shape in shapes
    )
    given = torch.randn(settings.batch_size, CLASSES, stride * height, stride * width, generator=generator)
    gradient = given.to(settings.device, dtype)

    def turn(upsample: Upsample) -> Callable[[], float]:
        def once() -> None:
            torch.autograd.grad(upsample(scores, weight, bias), (scores, weight, bias), gradient)

        return lambda: 1000 * seconds_per_call(once, calls=settings.steps, device=settings.device, settle=1)

    kind = str(dtype).removeprefix("torch.")
    name = f"upsampling by {stride}, {settings.batch_size} x {height}x{width}, {kind}"
    found = alternate(
        {"theirs": turn(transposed), "ours": turn(ours)},
        rounds=settings.rounds,
        tell=lambda line: settings.tell(f"{name}: {line}"),
    )
    reference = "torch's transposed convolution; ours: the sub-pixel form"
    return speedup(name, reference, ours=found["ours"], theirs=found["theirs"], unit="ms")

"""How close a step comes to what the device can do: operations and bytes counted, against peaks of known GPUs.

The limit is a sum over the kernels of our own uncompiled step: each takes at least the time of its arithmetic at the
peak rate, and at least that of reading its inputs and writing its outputs once at the peak bandwidth. It says how well
the kernels run, not how few they could be: fusing them lowers the bytes, so that a compiled step may even pass it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from benchmarks.loops import BareLoop
from benchmarks.results import Findings, Goal, Result, Spread, share
from benchmarks.settings import Settings, Variant
from benchmarks.training import OURS, configured, train_in_turns


@dataclass(frozen=True)
class Peak:
    """Of a GPU, dense, from its data sheet: operations per second in bfloat16 and in TF32, bytes per second."""

    bf16: float
    tf32: float
    bandwidth: float


# By a part of the name that CUDA gives; the first that fits counts.
PEAKS = {
    "H200": Peak(989e12, 494e12, 4.8e12),
    "H100 NVL": Peak(835e12, 417e12, 3.9e12),
    "H100 PCIe": Peak(756e12, 378e12, 2.0e12),
    "H100": Peak(989e12, 494e12, 3.35e12),
    "A100 80GB PCIe": Peak(312e12, 156e12, 1.935e12),
    "A100-SXM4-80GB": Peak(312e12, 156e12, 2.039e12),
    "A100": Peak(312e12, 156e12, 1.555e12),
}


ALLOCATIONS = (torch.ops.aten.empty, torch.ops.aten.new_empty, torch.ops.aten.empty_like, torch.ops.aten.empty_strided)
"""Which write nothing."""


def peak_of(name: str) -> Peak | None:
    """Of the GPU of this name; None for one that is not in the table."""
    return next((peak for part, peak in PEAKS.items() if part in name), None)


class Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Operations and bytes of everything that torch computes under it.

    Attributes:
        costs: for every kernel, floating-point operations and bytes of its inputs and outputs.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.costs: list[tuple[int, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if not func.is_view and func._overloadpacket not in ALLOCATIONS:
            formula = flop_registry.get(func._overloadpacket)
            operations = formula(*args, **kwargs, out_val=out) if formula else 0
            self.costs.append((operations, num_bytes((args, kwargs, out))))
        return out

    @property
    def operations(self) -> int:
        return sum(operations for operations, _ in self.costs)

    @property
    def bytes(self) -> int:
        return sum(size for _, size in self.costs)

    def limit(self, rate: float, bandwidth: float) -> float:
        """Seconds that the kernels take at least, at peak rate and bandwidth."""
        return sum(max(operations / rate, size / bandwidth) for operations, size in self.costs)


def num_bytes(values: Any) -> int:
    """Of all different tensors in a structure."""
    tensors = {id(value): value for value in tree_leaves(values) if isinstance(value, Tensor)}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def count(step: Callable[[], object]) -> Counter:
    """Count what a step computes; the first call, which allocates, is left out."""
    step()
    counter = Counter()
    with counter:
        step()
    return counter


def measure(settings: Settings) -> Findings:
    """For every variant, our training against the device's limit; on a CPU, whose peak is not known, the rate alone."""
    return Findings([result for variant in settings.variants for result in _of_variant(settings, variant)])


def _of_variant(settings: Settings, variant: Variant) -> list[Result]:
    name = f"roofline-{variant}".replace(", ", "-")
    config, settle = configured(settings, variant, name)
    counter = count(BareLoop(replace(config, compile=False)).step)
    seconds = train_in_turns(config, settings, {}, settle=settle, name=name)[OURS]
    counted = f"{counter.operations / 1e9:.4g} GFLOP and {counter.bytes / 1e9:.3g} GB a step"
    rates = Spread.of([counter.operations / 1e9 / one for one in seconds])
    rate = Result(f"arithmetic of a step, {variant}", "", "GFLOP/s", rates, note=counted)
    if not settings.on_gpu:
        return [rate]
    gpu = torch.cuda.get_device_name()
    peak = peak_of(gpu)
    if peak is None:
        return [replace(rate, note=f"{counted}; the peak of {gpu} is not known here")]
    limit = 1000 * counter.limit(peak.tf32 if variant.precision == "fp32" else peak.bf16, peak.bandwidth)
    ours = [1000 * value for value in seconds]
    return [
        rate,
        share(
            f"share of the limit of uncompiled kernels, {variant}",
            "operations and bytes of our kernels at the peaks of the data sheet",
            ours=ours,
            theirs=[limit] * len(ours),
            of_limit=True,
            goal=Goal(60) if settings.as_promised else None,
            note=counted,
        ),
    ]

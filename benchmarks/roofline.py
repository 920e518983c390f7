"""Share of the device's limit that a step reaches: its operations and bytes against the peaks of known GPUs.

The limit is a sum over the kernels of our own uncompiled step: each takes at least the time of its arithmetic at the
peak rate, and at least that of reading its inputs and writing its outputs once at the peak bandwidth. The share
measures how fast the kernels run, not whether fewer would suffice: fused kernels move fewer bytes, so that a compiled
step may exceed the limit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.results import Goal, Result, Spread
from benchmarks.settings import Settings, Variant
from benchmarks.training_loops import BareLoop
from benchmarks.training_run import OURS, MeasuredRun
from fcn.config.choices import Precision
from fcn.training.throughput import CORRECTED, peak_of

ALLOCATIONS = (torch.ops.aten.empty, torch.ops.aten.new_empty, torch.ops.aten.empty_like, torch.ops.aten.empty_strided)
"""Operators that write nothing."""


FORMULAS = FlopCounterMode(display=False, custom_mapping=CORRECTED).flop_registry
"""Functions that return the operations of a call of an operator."""


class KernelCounter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations and bytes of every kernel inside the context; FlopCounterMode counts only operations.

    Attributes:
        costs: floating-point operations, and bytes of inputs and outputs, of every kernel.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.costs: list[tuple[int, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if not func.is_view and func._overloadpacket not in ALLOCATIONS:
            formula = FORMULAS.get(func._overloadpacket)
            operations = formula(*args, **kwargs, out_val=out) if formula else 0
            self.costs.append((operations, num_bytes((args, kwargs, out))))
        return out

    @property
    def operations(self) -> int:
        return sum(operations for operations, _ in self.costs)

    @property
    def bytes(self) -> int:
        return sum(size for _, size in self.costs)

    def min_seconds(self, peak_rate: float, bandwidth: float) -> float:
        """Return the time that the kernels take at peak rate and bandwidth."""
        return sum(max(operations / peak_rate, size / bandwidth) for operations, size in self.costs)


def num_bytes(values: Any) -> int:
    """Return the size of all distinct tensors in a structure."""
    tensors = {id(value): value for value in tree_leaves(values) if isinstance(value, Tensor)}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def count_kernels(step: Callable[[], object]) -> KernelCounter:
    """Count the kernels of a step, after an uncounted step that allocates."""
    step()
    counter = KernelCounter()
    with counter:
        step()
    return counter


def measure_roofline(settings: Settings) -> list[Result]:
    """Compare our training with the limit of the device, for every variant; on a CPU measure only the rate."""
    return [result for variant in settings.variants for result in _rate(settings, variant)]


def _rate(settings: Settings, variant: Variant) -> list[Result]:
    run = MeasuredRun(settings, variant, "roofline")
    counter = count_kernels(BareLoop(replace(run.config, compile=False)).step)
    step_ms = run.milliseconds()[OURS]
    note = f"{counter.operations / 1e9:.4g} GFLOP and {counter.bytes / 1e9:.3g} GB per step"
    rates = Spread.of([counter.operations / 1e6 / one for one in step_ms])
    rate = Result(f"arithmetic of a step, {variant}", "", "GFLOP/s", rates, note=note)
    if not settings.on_gpu:
        return [rate]
    device_name = torch.cuda.get_device_name()
    peak = peak_of(device_name)
    if peak is None:
        return [replace(rate, note=f"{note}; the peaks of {device_name} are unknown")]
    limit = counter.min_seconds(peak.rate(Precision(variant.precision)), peak.bandwidth)
    reached = Result.of(
        f"share of the limit of uncompiled kernels, {variant}",
        "operations and bytes of our kernels at the peaks of the data sheet",
        "share",
        ours=step_ms,
        theirs=[1000 * limit] * len(step_ms),
        goal=Goal(60) if settings.goals_apply else None,
        note=note,
    )
    return [rate, reached]

"""Taking turns, and the clock: seconds of a call on a device that may still be at work when the call is back."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping

import torch


def synchronise(device: str) -> None:
    """Wait until the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds_per_call(function: Callable[[], object], *, calls: int, device: str, settle: int = 0) -> float:
    """Wall time of a call, the mean of `calls` in a row: a GPU works while the host goes on.

    Args:
        function: what is called.
        calls: that are counted.
        device: cpu or cuda.
        settle: calls before these, after which caches hold what is the function's own.
    """
    for _ in range(settle):
        function()
    synchronise(device)
    started = time.perf_counter()
    for _ in range(calls):
        function()
    synchronise(device)
    return (time.perf_counter() - started) / calls


def alternate(
    contestants: Mapping[str, Callable[[], float]],
    *,
    rounds: int,
    tell: Callable[[str], object] = lambda line: None,
    warm_up: bool = True,
) -> dict[str, list[float]]:
    """What the contestants measure in turns: one after the other, again and again, so that drift meets all alike.

    By default a first turn of each is not counted: it compiles, allocates, fills caches.

    Args:
        contestants: each measures itself once when it is called.
        rounds: how often each is counted.
        tell: called before every round with a line that says which it is.
        warm_up: whether a turn that is not counted comes first.

    Returns:
        By contestant, a value per round.
    """
    found: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(0 if warm_up else 1, rounds + 1):
        tell(f"round {number} of {rounds}" if number else "warm-up")
        for name, contestant in contestants.items():
            value = contestant()
            if number:
                found[name].append(value)
    return found


@contextlib.contextmanager
def plain_torch(device: str) -> Iterator[None]:
    """Torch as it is when a person imports it, whatever a run that is under way has set for itself."""
    precision = torch.get_float32_matmul_precision()
    deterministic = torch.are_deterministic_algorithms_enabled()
    torch.set_float32_matmul_precision("highest")
    torch.use_deterministic_algorithms(False)
    cudnn = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=False, allow_tf32=True)
    try:
        with cudnn, torch.enable_grad(), torch.autocast(device, enabled=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
        torch.use_deterministic_algorithms(deterministic)


@contextlib.contextmanager
def threads(number: int) -> Iterator[None]:
    """Torch on this many cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)

"""Timing of calls, and alternation between contestants."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import torch
from torch.utils.benchmark import Timer, timer

from benchmarks.results import Result
from benchmarks.settings import Settings


def seconds_per_call(function: Callable[[], object], *, calls: int) -> float:
    """Return the mean wall time of `calls` calls in a row, after two warm-up calls and including all GPU work."""
    measurement = Timer("function()", globals={"function": function}, num_threads=torch.get_num_threads()).timeit(calls)
    return float(measurement.mean)


def seconds_once(function: Callable[[], object]) -> float:
    """Return the wall time of one call without a warm-up, including all GPU work."""
    start = timer()
    function()
    return timer() - start


def alternate(
    contestants: Mapping[str, Callable[[], float]],
    *,
    rounds: int,
    log: Callable[[str], object] = lambda line: None,
    warm_up: bool = True,
) -> dict[str, list[float]]:
    """Run the contestants in turn, round by round, so that drift of the machine affects all of them alike.

    Args:
        contestants: functions that measure themselves once and return the value, by name.
        rounds: number of rounds that count.
        log: function that is called with the name of every round.
        warm_up: whether to run an uncounted round first, which compiles, allocates and fills caches.

    Returns:
        The values of all rounds by contestant.
    """
    values: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(0 if warm_up else 1, rounds + 1):
        log(f"round {number} of {rounds}" if number else "warm-up")
        for name, measure in contestants.items():
            value = measure()
            if number:
                values[name].append(value)
    return values


def compare_in_turns(
    settings: Settings,
    name: str,
    reference: str,
    ratio: str,
    *,
    ours: Callable[[], float],
    theirs: Callable[[], float],
    rounds: int | None = None,
    warm_up: bool = True,
    **fields: Any,
) -> Result:
    """Measure two contestants alternately and compare them by one of `RATIOS`; `fields` are those of the result."""
    values = alternate(
        {"theirs": theirs, "ours": ours},
        rounds=rounds or settings.rounds,
        log=lambda line: settings.log(f"{name}: {line}"),
        warm_up=warm_up,
    )
    return Result.of(name, reference, ratio, ours=values["ours"], theirs=values["theirs"], **fields)


def separate_process(prepare: Callable[..., None], *arguments: Any) -> ProcessPoolExecutor:
    """Return an executor with one new process, which has none of the settings that our code makes in its process.

    Args:
        prepare: function of a module, called once in the process.
        arguments: its arguments.
    """
    return ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=prepare, initargs=arguments)


@contextlib.contextmanager
def default_torch_settings(device: str) -> Iterator[None]:
    """Restore torch's defaults inside the context, whatever the current run has set."""
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

"""Duration of a training step: d2l's loop, our network in a bare loop, and our training as users run it."""

from __future__ import annotations

import statistics

import torch

from benchmarks.results import Goal, Result
from benchmarks.settings import Settings, Variant
from benchmarks.timing import seconds_per_call
from benchmarks.training_loops import BareLoop, d2l_process, measure_d2l
from benchmarks.training_run import OURS, MeasuredRun

D2L = "d2l's loop in a process of its own, fp32, NCHW, batch in memory"
BARE = "the same network in a bare loop, batch on the device"


def measure_step(settings: Settings) -> list[Result]:
    """Compare bare loop and training with d2l's loop, and training with the bare loop, for every variant."""
    return [result for variant in settings.variants for result in _compare_loops(settings, variant)]


def _compare_loops(settings: Settings, variant: Variant) -> list[Result]:
    run, name = MeasuredRun(settings, variant, "step"), f"step, {variant}"
    bare = BareLoop(run.config)
    with d2l_process(run.config, device=settings.device, num_threads=torch.get_num_threads()) as d2l:
        ms = run.milliseconds(
            d2l=lambda: d2l.submit(measure_d2l, settings.steps).result(),
            bare=lambda: seconds_per_call(bare.step, calls=settings.steps),
        )
    fast = low = None
    if settings.goals_apply:
        in_fp32 = str(bare.trainer.precision) == "32-true"
        fast = Goal(10 if settings.on_gpu else 1.5 if in_fp32 else 3)
        low = Goal(3 if settings.on_gpu else 1, at_least=False)
    training = f"{name}: training with data, metrics, log"
    return [
        Result.of(f"{name}: bare loop", D2L, "speedup", ours=ms["bare"], theirs=ms["d2l"]),
        Result.of(training, D2L, "speedup", ours=ms[OURS], theirs=ms["d2l"], goal=fast),
        Result.of(f"{name}: overhead of training", BARE, "overhead", ours=ms[OURS], theirs=ms["bare"], goal=low),
    ]


def measure_overhead(settings: Settings) -> list[Result]:
    """Measure the host time of a step outside of the network, on crops so small that little else remains."""
    run = MeasuredRun(settings, settings.variants[0], "overhead", "batch_size=2", "data.crop_size=[32,32]")
    bare = BareLoop(run.config)
    ms = run.milliseconds(bare=lambda: seconds_per_call(bare.step, calls=settings.steps))
    ours, theirs = ms[OURS], ms["bare"]
    excess = statistics.median(our - their for our, their in zip(ours, theirs, strict=True))
    note = f"{excess:.2f} ms per step more than the bare loop, which a GPU must hide"
    name = "host time of a step: 2 images of 32x32"
    return [Result.of(name, BARE, "overhead", ours=ours, theirs=theirs, note=note)]

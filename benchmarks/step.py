"""A training step: the chapter's loop, our network in a bare loop, our training as users run it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.loops import BareLoop, Chapter, random_batch
from benchmarks.measuring import seconds_per_call
from benchmarks.results import Findings, Goal, Result, share, speedup
from benchmarks.settings import Settings, Variant
from benchmarks.training import OURS, configured, train_in_turns

CHAPTER, BARE = (
    "the chapter's loop, fp32, NCHW, batch in memory",
    "the same network in a bare loop, batch on the device",
)


def measure(settings: Settings) -> Findings:
    """For every variant: bare loop and training against the chapter's loop, and the share that is not the model."""
    return Findings([result for variant in settings.variants for result in _of_variant(settings, variant)])


def _of_variant(settings: Settings, variant: Variant) -> list[Result]:
    name, run = f"step, {variant}", f"step-{variant}".replace(", ", "-")
    config, settle = configured(settings, variant, run)
    bare, chapter = BareLoop(config), Chapter(len(config.data.classes), device=settings.device)
    batch = chapter.as_it_reads(random_batch(config))

    def seconds(function: Callable[[], object]) -> float:
        return seconds_per_call(function, calls=settings.steps, device=settings.device, settle=1)

    others = {"chapter": lambda: seconds(lambda: chapter.step(batch)), "bare": lambda: seconds(bare.step)}
    found = train_in_turns(config, settings, others, settle=settle, name=run)
    ms = {contestant: [1000 * value for value in values] for contestant, values in found.items()}
    promised = settings.as_promised
    return [
        speedup(f"{name}: bare loop", CHAPTER, ours=ms["bare"], theirs=ms["chapter"]),
        speedup(
            f"{name}: training with data, metrics, log",
            CHAPTER,
            ours=ms[OURS],
            theirs=ms["chapter"],
            goal=Goal(_speedup_goal(settings, str(bare.trainer.precision))) if promised else None,
        ),
        share(
            f"{name}: share that is not the model",
            BARE,
            ours=ms[OURS],
            theirs=ms["bare"],
            goal=Goal(3 if settings.on_gpu else 1, at_least=False) if promised else None,
        ),
    ]


def _speedup_goal(settings: Settings, precision: str) -> float:
    if settings.on_gpu:
        return 10
    return 1.4 if precision == "32-true" else 2.5


def measure_overhead(settings: Settings) -> Findings:
    """What the host does in a step beside the model: on crops so small that hardly anything else is left."""
    variant = settings.variants[0]
    tiny: Sequence[str] = ("batch_size=2", "data.crop_size=[32,32]")
    config, settle = configured(settings, variant, "overhead", *tiny)
    bare = BareLoop(config)
    others = {"bare": lambda: seconds_per_call(bare.step, calls=settings.steps, device=settings.device, settle=1)}
    found = train_in_turns(config, settings, others, settle=settle, name="overhead")
    ours, theirs = ([1000 * value for value in found[name]] for name in (OURS, "bare"))
    beyond = [our - their for our, their in zip(ours, theirs, strict=True)]
    note = f"beyond the bare loop: {sorted(beyond)[len(beyond) // 2]:.2f} ms a step, which a GPU's step must hide"
    name = "host time of a step: 2 images of 32x32"
    return Findings([share(name, BARE, ours=ours, theirs=theirs, note=note)])

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    ExponentialLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    PolynomialLR,
)

from fcn.config import ConfigError, option
from fcn.config.choices import Anneal
from fcn.config.composition import compose
from fcn.training.schedules import build_schedule


@pytest.mark.parametrize(
    ("name", "factors"),
    [
        # warm-up of 4 steps in 12, then t = (step - 4) / 8; evaluated at steps 0, 1, 3, 4, 6, 8, 12 and beyond
        ("constant", [1 / 4, 2 / 4, 1, 1, 1, 1, 1, 1]),
        ("poly", [1 / 4, 2 / 4, 1, 1, 0.75**2, 0.5**2, 0, 0]),
        ("cosine", [1 / 4, 2 / 4, 1, 1, 0.5 * (1 + math.sqrt(0.5)), 0.5, 0, 0]),
    ],
)
def test_factors_of_each_schedule(name, factors):
    config = option("schedule", name, warmup_steps=4, **({"power": 2.0} if name == "poly" else {}))
    steps = [0, 1, 3, 4, 6, 8, 12, 13]
    assert [config.factor(step, 12) for step in steps] == pytest.approx(factors, abs=1e-15)


def test_default_warmup_is_a_tenth_of_the_run():
    config = option("schedule", "cosine")
    assert config.factor(0, 175) == pytest.approx(1 / 17)
    assert config.factor(16, 175) == config.factor(17, 175) == 1
    assert config.factor(0, 4) == 1  # none in a run of a few steps


COSINE = option("schedule", "cosine")


@given(total_steps=st.integers(10, 10**6))
def test_default_warmup_is_exactly_a_tenth_rounded_down(total_steps):
    assert COSINE.factor(0, total_steps) == 1 / (total_steps // 10)


def test_warmup_share_of_the_run():
    config = option("schedule", "poly", power=1.0, warmup_share=0.0375)
    assert [config.factor(step, 40_000) for step in (0, 749, 1499, 1500)] == [1 / 1500, 0.5, 1, 1]
    assert config.factor(1500 + 38_500 // 2, 40_000) == 0.5
    assert config.factor(0, 20) == 1  # a run of a few steps has no warm-up


def test_warmup_share_beside_warmup_steps_is_refused():
    with pytest.raises(
        ConfigError,
        match=r"schedule.warmup_share \(=0.2\) must be 0.1 with schedule.warmup_steps \(=5\), which replaces it; use "
        r"schedule.warmup_share=0.1, or schedule.warmup_steps=null$",
    ):
        compose("schedule.warmup_steps=5", "schedule.warmup_share=0.2")


@pytest.mark.parametrize(
    ("keys", "total_steps", "remedy"),
    [
        (("experiment=fcn_dinov2",), 40_000, "schedule.warmup_share=0.1"),
        (("experiment=fcn_dinov2", "schedule.warmup_share=0.2"), 40_000, "schedule.warmup_share=0.4"),
        (("experiment=fcn_dinov2", "schedule.warmup_share=0.5"), 40_000, None),
        (("schedule=cosine",), 500, "schedule.warmup_steps=100"),
        (("schedule=cosine",), 2000, "schedule.warmup_steps=400"),
        (("schedule=poly", "schedule.warmup_share=0"), 2000, "schedule.warmup_share=0.1"),
        (("schedule=constant",), 2000, "schedule.warmup_steps=100"),
        (("schedule=constant",), 7, "schedule.warmup_steps=3"),
        (("schedule=constant",), 1, None),
        (("schedule=step", "schedule.warmup_steps=60"), 100, None),
        (("schedule=onecycle",), 2000, None),
    ],
)
def test_longer_warmup_composes_with_the_keys_of_the_run(keys, total_steps, remedy):
    config = compose(*keys).schedule
    assert config.longer_warmup(total_steps) == remedy
    if remedy:
        longer = compose(*keys, remedy).schedule
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))])
        build_schedule(optimizer, longer, total_steps=total_steps)
        assert longer.factor(0, total_steps) < config.factor(0, total_steps)


@given(
    schedule=st.one_of(
        st.sampled_from([("constant", {}), ("cosine", {})]),
        st.floats(0, 10).map(lambda power: ("poly", {"power": power})),
        st.floats(1e-9, 1).map(lambda final: ("exponential", {"final_factor": final})),
    ),
    total_steps=st.integers(1, 500),
    data=st.data(),
)
@settings(max_examples=100, deadline=None)
def test_factor_rises_to_one_then_falls_and_is_positive(schedule, total_steps, data):
    warmup_steps = data.draw(st.integers(0, total_steps - 1))
    config = option("schedule", schedule[0], warmup_steps=warmup_steps, **schedule[1])
    factors = [config.factor(step, total_steps) for step in range(total_steps + 3)]
    rise, fall = factors[:warmup_steps], factors[warmup_steps:]
    assert fall[0] == 1
    assert rise == sorted(rise)
    assert fall == sorted(fall, reverse=True)
    assert all(0 <= factor <= 1 for factor in factors)
    assert min(factors[:total_steps]) > 0  # every step of the run moves the weights


def rates(optimizer: Optimizer, schedule: LRScheduler, steps: int) -> list[float]:
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[-1]["lr"])
        optimizer.step()
        schedule.step()
    return seen


@pytest.mark.parametrize(
    ("config", "reference"),
    [
        (
            option("schedule", "poly", power=0.9, warmup_steps=0),
            lambda optimizer: PolynomialLR(optimizer, total_iters=50, power=0.9),
        ),
        (
            option("schedule", "cosine", warmup_steps=0),
            lambda optimizer: CosineAnnealingLR(optimizer, T_max=50),
        ),
        (
            option("schedule", "exponential", final_factor=0.05, warmup_steps=0),
            lambda optimizer: ExponentialLR(optimizer, gamma=0.05 ** (1 / 50)),
        ),
        (
            option("schedule", "step", milestones=[0.3, 0.55, 0.9], gamma=0.2),
            lambda optimizer: MultiStepLR(optimizer, milestones=[15, 28, 45], gamma=0.2),
        ),
    ],
)
def test_schedule_equals_torch(config, reference):
    ours, theirs = (SGD([nn.Parameter(torch.zeros(1))], lr=0.3) for _ in range(2))
    expected = rates(theirs, reference(theirs), 51)
    assert rates(ours, build_schedule(ours, config, total_steps=50), 51) == pytest.approx(expected, abs=1e-12)


def test_poly_with_final_factor_equals_the_recursion_of_mmengine():
    """`PolyParamScheduler` of mmengine whose `end` is one step after the run.

    mmcv's `PolyLrUpdaterHook`, with which mmsegmentation's published networks were trained, has the same rates.
    """
    lr, least, power, steps = 0.01, 1e-4, 0.9, 40
    expected = [lr]
    for step in range(1, steps):
        decay = (1 - 1 / (steps - step + 1)) ** power
        expected.append((expected[-1] - least) * decay + least)
    config = option("schedule", "poly", power=power, warmup_steps=0, final_factor=least / lr)
    ours = SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    assert rates(ours, build_schedule(ours, config, total_steps=steps), steps) == pytest.approx(expected, rel=1e-12)


@given(
    total_steps=st.integers(2, 60),
    warmup_share=st.floats(0, 1),
    start_divisor=st.floats(1, 100),
    end_divisor=st.floats(1, 1e5),
    anneal=st.sampled_from(Anneal),
)
@settings(max_examples=50)
def test_one_cycle_equals_torch(total_steps, warmup_share, start_divisor, end_divisor, anneal):
    assume((warmup_share * total_steps - 1) % (total_steps - 1))  # torch divides by zero
    ours, theirs = (SGD([nn.Parameter(torch.zeros(1))], lr=0.3) for _ in range(2))
    keys = {"warmup_share": warmup_share, "start_divisor": start_divisor, "end_divisor": end_divisor, "anneal": anneal}
    reference = OneCycleLR(
        theirs,
        max_lr=0.3,
        total_steps=total_steps,
        pct_start=warmup_share,
        div_factor=start_divisor,
        final_div_factor=end_divisor,
        anneal_strategy="cos" if anneal is Anneal.cosine else "linear",
        cycle_momentum=False,
    )
    schedule = build_schedule(ours, option("schedule", "onecycle", **keys), total_steps=total_steps)
    expected = rates(theirs, reference, total_steps - 1)
    assert rates(ours, schedule, total_steps - 1) == pytest.approx(expected, abs=1e-12)
    assert schedule.lr_lambdas[0](total_steps) == schedule.lr_lambdas[0](total_steps - 1)


@given(st.floats(0, 1), st.integers(1, 20))
def test_one_cycle_of_any_length_is_finite_and_below_the_peak(warmup_share, total_steps):
    config = option("schedule", "onecycle", warmup_share=warmup_share)
    assert all(0 < config.factor(step, total_steps) <= 1 for step in range(total_steps + 1))


def test_drops_of_the_step_schedule_and_its_warm_up():
    config = option("schedule", "step", milestones=[0.5, 0.75], warmup_steps=2)
    factors = [config.factor(step, 8) for step in range(9)]
    assert factors == pytest.approx([0.5, 1, 1, 1, 0.1, 0.1, 0.01, 0.01, 0.01])


@pytest.mark.parametrize("milestones", [[], [0.9, 0.6], [0.5, 0.5]])
def test_milestones_must_ascend(milestones):
    with pytest.raises(ConfigError, match=r"schedule.milestones \(=.*\) must be ascending"):
        option("schedule", "step", milestones=milestones).check(None)


@pytest.mark.parametrize(("warmup_steps", "total_steps"), [(80, 80), (100, 80), (1, 1)])
def test_warmup_must_be_shorter_than_the_run(warmup_steps, total_steps):
    optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    with pytest.raises(ConfigError, match=rf"warmup_steps \(={warmup_steps}\) must be below .* \(={total_steps}\)"):
        build_schedule(optimizer, option("schedule", "cosine", warmup_steps=warmup_steps), total_steps=total_steps)

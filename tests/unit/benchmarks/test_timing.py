"""Timing: alternation, the clock in a training, and what is read from other processes."""

import pytest
import torch

from benchmarks import timing, training_run
from benchmarks.ddp import last_epoch_ms_per_step
from benchmarks.results import BenchmarkError
from benchmarks.startup import seconds_of
from benchmarks.timing import alternate, default_torch_settings, seconds_once, seconds_per_call
from benchmarks.training_run import StepClock


def test_contestants_alternate_and_the_warm_up_does_not_count():
    order = []

    def contestant(name):
        return lambda: order.append(name) or float(len(order))

    lines = []
    values = alternate({"theirs": contestant("t"), "ours": contestant("o")}, rounds=2, log=lines.append)
    assert order == ["t", "o"] * 3
    assert values == {"theirs": [3.0, 5.0], "ours": [4.0, 6.0]}
    assert lines == ["warm-up", "round 1 of 2", "round 2 of 2"]
    assert alternate({"ours": lambda: 1.0}, rounds=1, warm_up=False, log=lines.append) == {"ours": [1.0]}
    assert lines[3:] == ["round 1 of 1"]


def test_seconds_are_wall_time_on_all_threads(monkeypatch):
    calls = []
    assert 0 <= seconds_per_call(lambda: calls.append(torch.get_num_threads()), calls=3) < 1
    assert calls == [torch.get_num_threads()] * 5  # after two warm-up calls
    times = iter([10.0, 14.5])
    monkeypatch.setattr(timing, "timer", lambda: next(times))
    assert seconds_once(lambda: None) == 4.5


def test_reference_runs_with_torchs_default_settings():
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
            with default_torch_settings("cpu"):
                weight = torch.ones(2, 2, requires_grad=True)
                product = weight @ weight
                assert product.dtype is torch.float32
                assert product.requires_grad
                assert torch.get_float32_matmul_precision() == "highest"
            assert (weight @ weight).dtype is torch.bfloat16
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_step_clock_counts_settled_steps_and_pauses_for_the_others(monkeypatch):
    now, turns = [0.0], []
    monkeypatch.setattr(training_run, "timer", lambda: now[0])

    def other():
        now[0] += 1000
        clock()  # a step of the other contestant's optimiser
        turns.append(clock._done)
        return 0.5

    clock = StepClock(settle=2, steps=3, others={"other": other})
    assert clock.steps_per_epoch == 6
    for epoch in range(3):
        for step in range(clock.steps_per_epoch):
            now[0] += [50, 50, 1, 2, 3, 50][step] * (epoch + 1)
            clock()
    assert turns == [5, 11, 17]  # before the last step of each epoch
    assert clock.values == {"ours": [4.0, 6.0], "other": [0.5, 0.5]}  # means of 1, 2, 3; the first epoch is a warm-up


def test_last_epoch_is_separated_from_cumulative_rates(tmp_path):
    # 4 steps of 8 images in 8 s, then 4 in 2 s.
    (tmp_path / "metrics.csv").write_text("epoch,step,images_per_second\n0,4,4.0\n1,8,6.4\n")
    assert last_epoch_ms_per_step(tmp_path, 8) == pytest.approx(500)


def test_failed_process_is_an_error(tmp_path):
    with pytest.raises(BenchmarkError, match=r"python -c raise .* failed with status 3: no message"):
        seconds_of("-c", "raise SystemExit(3)", folder=tmp_path)

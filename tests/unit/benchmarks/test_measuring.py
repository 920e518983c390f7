"""Turns and clock."""

import torch

from benchmarks import measuring
from benchmarks.measuring import alternate, plain_torch, seconds_per_call, threads


def test_contestants_take_turns_and_the_first_turn_does_not_count():
    order = []

    def contestant(name):
        return lambda: order.append(name) or float(len(order))

    lines = []
    found = alternate({"theirs": contestant("t"), "ours": contestant("o")}, rounds=2, tell=lines.append)
    assert order == ["t", "o"] * 3
    assert found == {"theirs": [3.0, 5.0], "ours": [4.0, 6.0]}
    assert lines == ["warm-up", "round 1 of 2", "round 2 of 2"]
    assert alternate({"ours": lambda: 1.0}, rounds=1, warm_up=False, tell=lines.append) == {"ours": [1.0]}
    assert lines[3:] == ["round 1 of 1"]


def test_the_time_of_a_call_is_the_mean_of_those_that_count(monkeypatch):
    now = [0.0]
    costs = iter([100.0, 1.0, 2.0, 6.0])
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: now[0])

    def call():
        now[0] += next(costs)

    assert seconds_per_call(call, calls=3, device="cpu", settle=1) == 3.0


def test_the_reference_meets_torch_as_it_is_imported():
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
            with plain_torch("cpu"):
                weight = torch.ones(2, 2, requires_grad=True)
                product = weight @ weight
                assert product.dtype is torch.float32
                assert product.requires_grad
                assert torch.get_float32_matmul_precision() == "highest"
            assert (weight @ weight).dtype is torch.bfloat16
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")


def test_threads_are_given_back():
    before = torch.get_num_threads()
    with threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before

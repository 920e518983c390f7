"""The clock in a training: which steps count, and when the others have their turn."""

from benchmarks import training
from benchmarks.training import Clock


def test_steps_after_settling_count_and_the_others_stand_outside(monkeypatch):
    now, turns = [0.0], []
    monkeypatch.setattr(training.time, "perf_counter", lambda: now[0])

    def other():
        now[0] += 1000
        clock()  # a step of the other's own optimiser
        turns.append(clock._done)
        return 0.5

    clock = Clock(settle=2, steps=3, others={"other": other}, device="cpu")
    assert clock.epoch == 6
    for epoch in range(3):
        for step in range(clock.epoch):
            now[0] += [50, 50, 1, 2, 3, 50][step] * (epoch + 1)
            clock()
    assert turns == [5, 11, 17]  # before the last step of each epoch
    assert clock.found == {"ours": [4.0, 6.0], "other": [0.5, 0.5]}  # means of 1, 2, 3; the first epoch is a warm-up

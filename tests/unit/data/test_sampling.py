"""Rounds of a run whose length is given in steps, and the images of its steps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fcn.data.sampling import EpochBatches, Rounds

NUM_IMAGES, BATCH_SIZE, STEPS_PER_EPOCH = 13, 3, 4


def batches_of(rounds: Rounds | None, *, done: int) -> list:
    return list(EpochBatches(NUM_IMAGES, batch_size=BATCH_SIZE, position=lambda: done, seed=1, rounds=rounds))


def uninterrupted(total_steps: int) -> list:
    """Batches of epochs, one after the other."""
    epochs = range(total_steps // STEPS_PER_EPOCH + 1)
    return [batch for epoch in epochs for batch in batches_of(None, done=epoch * STEPS_PER_EPOCH)][:total_steps]


lengths = st.tuples(st.integers(1, 30), st.integers(1, 12))  # steps of a run, steps of a round


@given(lengths)
def test_steps_use_the_images_of_epochs(length):
    rounds, batches = Rounds(*length), []
    while len(batches) < rounds.total_steps:
        assert rounds.count_from(len(batches)) == -(-(rounds.total_steps - len(batches)) // rounds.length)
        following = batches_of(rounds, done=len(batches))
        assert len(following) == min(rounds.length, rounds.total_steps - len(batches))
        batches += following
    assert batches == uninterrupted(rounds.total_steps)
    assert rounds.count_from(len(batches)) == 0


@given(lengths, st.data())
def test_interrupted_round_is_completed(length, data):
    total_steps, round_length = length
    done = data.draw(st.integers(0, total_steps - 1))
    begin = done // round_length * round_length
    rounds = Rounds(total_steps, round_length, begin, min(begin + round_length, total_steps))
    sampler = EpochBatches(NUM_IMAGES, batch_size=BATCH_SIZE, position=lambda: done, seed=1, rounds=rounds)
    assert len(sampler) == rounds.end - begin  # of the whole round, whose first batches Lightning counts as done
    assert list(sampler) == uninterrupted(rounds.end)[done:]


@pytest.mark.parametrize(
    ("total_steps", "rounds"),
    [(10, [(0, 4), (4, 8), (8, 10)]), (12, [(0, 4), (4, 8), (8, 12)]), (2, [(0, 2)])],
)
def test_last_round_may_be_shorter(total_steps, rounds):
    division, places = Rounds(total_steps, 4), []
    while not places or places[-1][1] < total_steps:
        places.append(division.at(places[-1][1] if places else 0))
        assert division.at(places[-1][1] - 1) == places[-1]
    assert places == rounds

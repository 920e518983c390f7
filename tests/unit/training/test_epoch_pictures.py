"""Selection of the validations after which pictures are drawn."""

from hypothesis import given
from hypothesis import strategies as st

from fcn.training.epoch_pictures import MAX_PICTURES, pictures_are_due


def due(total: int, interval: int) -> list[int]:
    """Return the validations with pictures; the end of a run is always validated, as by LastEpochValidation."""
    validations = sorted({*range(interval, total, interval), total})
    return [done for done in validations if pictures_are_due(done, total, interval=interval)]


def test_pictures_are_evenly_spaced() -> None:
    assert due(40, 1) == [4, 8, 12, 16, 20, 24, 28, 32, 36, 40]
    assert due(7, 1) == [1, 2, 3, 4, 5, 6, 7]
    assert due(25, 2) == [4, 6, 8, 10, 14, 16, 18, 20, 24, 25]
    assert due(40_000, 4000) == list(range(4000, 40_001, 4000))


@given(total=st.integers(1, 3000), interval=st.integers(1, 400))
def test_number_of_pictures_is_bounded(total: int, interval: int) -> None:
    steps = due(total, interval)
    num_validations = -(-total // interval)
    assert steps[-1] == total
    assert len(steps) <= MAX_PICTURES
    # A gap is at most a tenth of the run, or the validations on both sides of it.
    assert len(steps) >= min(num_validations, MAX_PICTURES) / 2

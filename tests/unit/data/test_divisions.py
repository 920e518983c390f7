"""Random divisions: every image is in one fold, the sizes are equal, and only names and seed decide."""

import hashlib
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from fcn.data.divisions import fold_numbers, position

NAMES = st.lists(st.text("abcdef_0123456789/äé", min_size=1), min_size=2, max_size=60, unique=True)


@given(NAMES, st.data(), st.integers(0, 3))
def test_folds_differ_by_at_most_one_image(names, data, seed):
    folds = data.draw(st.integers(2, len(names)))
    sizes = Counter(fold_numbers(names, folds=folds, seed=seed))
    assert sorted(sizes) == list(range(folds))
    assert max(sizes.values()) - min(sizes.values()) <= 1


@given(NAMES, st.randoms(use_true_random=False), st.integers(0, 3))
def test_order_of_the_images_has_no_effect(names, random, seed):
    numbers = dict(zip(names, fold_numbers(names, folds=2, seed=seed), strict=True))
    shuffled = random.sample(names, len(names))
    assert dict(zip(shuffled, fold_numbers(shuffled, folds=2, seed=seed), strict=True)) == numbers


def test_fold_is_the_rank_of_the_hash():
    names = [f"2007_{number:06d}" for number in range(103)]
    ranked = sorted(names, key=lambda name: hashlib.sha256(f"7 {name}".encode()).hexdigest())
    sizes = [21, 21, 20, 21, 20]  # the places p with 20.6 n <= p < 20.6 (n + 1)
    folds = [number for number, size in enumerate(sizes) for _ in range(size)]
    expected = dict(zip(ranked, folds, strict=True))
    assert fold_numbers(names, folds=5, seed=7) == [expected[name] for name in names]


def test_seed_changes_the_folds_and_new_images_move_few():
    names = [f"image_{number}" for number in range(500)]
    first, other = (fold_numbers(names, folds=5, seed=seed) for seed in (0, 1))
    assert 300 < sum(a != b for a, b in zip(first, other, strict=True)) < 450  # four fifths by chance
    more = fold_numbers([*names, *(f"new_{number}" for number in range(10))], folds=5, seed=0)
    assert sum(a != b for a, b in zip(first, more, strict=False)) < 40


def test_first_fold_has_the_images_of_a_validation_share():
    names = [f"image_{number}" for number in range(1000)]
    numbers = fold_numbers(names, folds=5, seed=3)
    chosen = [position(name, 3) < 0.2 for name in names]
    assert sum((number == 0) != validates for number, validates in zip(numbers, chosen, strict=True)) < 40

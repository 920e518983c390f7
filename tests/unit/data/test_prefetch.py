"""Reading ahead: order, limit and, after an error, the end of the threads."""

import threading

import pytest

from fcn.data.prefetch import read_ahead


def double(number: int) -> int:
    if number == 7:
        raise ValueError("seven")
    return 2 * number


def test_results_have_the_order_of_the_jobs():
    with read_ahead(double, range(7), threads=3) as results:
        assert [(job, result.result()) for job, result in results] == [(number, 2 * number) for number in range(7)]


def test_only_a_few_jobs_are_taken_before_their_results_are_used():
    taken = []
    with read_ahead(double, (taken.append(number) or number for number in range(7, 100)), threads=3) as results:
        next(results)
        assert len(taken) == 7


def test_threads_end_with_the_context_even_while_an_error_refers_to_the_iterator():
    """Garbage collection would end them otherwise, at a time when waiting for threads can deadlock."""

    def read() -> None:
        with read_ahead(double, range(100), threads=3) as results:
            for _, result in results:
                result.result()

    before = threading.active_count()
    with pytest.raises(ValueError, match="seven") as error:
        read()
    assert error.value.__traceback__ is not None
    assert threading.active_count() == before

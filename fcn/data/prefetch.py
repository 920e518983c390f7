"""Threads that read files ahead of their use."""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

THREADS = min(4, os.cpu_count() or 1)
"""Threads suffice because decoders release Python's lock; every process would first import torch."""

Job = TypeVar("Job")
Result = TypeVar("Result")


@contextlib.contextmanager
def read_ahead(
    function: Callable[[Job], Result], jobs: Iterable[Job], *, threads: int = THREADS
) -> Iterator[Iterator[tuple[Job, Future[Result]]]]:
    """Yield an iterator over every job, in order, with the future of `function(job)`.

    Threads work a few jobs ahead of the consumer, and end with the context. `ThreadPoolExecutor.map` would instead hold
    the results of all jobs in memory and stop at the first error. A generator without a context would be closed by the
    garbage collector after an error, in any thread at any time, and waiting for threads there can deadlock.
    """
    workers = ThreadPoolExecutor(threads)
    try:
        yield _with_futures(function, jobs, workers, ahead=2 * threads)
    finally:
        workers.shutdown(cancel_futures=True)  # after an error or Ctrl-C, skip the remaining files


def _with_futures(
    function: Callable[[Job], Result], jobs: Iterable[Job], workers: ThreadPoolExecutor, *, ahead: int
) -> Iterator[tuple[Job, Future[Result]]]:
    pending: deque[tuple[Job, Future[Result]]] = deque()
    for job in jobs:
        pending.append((job, workers.submit(function, job)))
        if len(pending) > ahead:
            yield pending.popleft()
    while pending:
        yield pending.popleft()

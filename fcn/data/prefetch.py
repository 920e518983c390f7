"""Threads that read files ahead of their use."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

THREADS = min(4, os.cpu_count() or 1)
"""Threads suffice because decoders release Python's lock; every process would first import torch."""

Job = TypeVar("Job")
Result = TypeVar("Result")


def read_ahead(
    function: Callable[[Job], Result], jobs: Iterable[Job], *, threads: int = THREADS
) -> Iterator[tuple[Job, Future[Result]]]:
    """Yield every job, in order, with the future of `function(job)`; threads work a few jobs ahead of the consumer.

    `ThreadPoolExecutor.map` would instead hold the results of all jobs in memory and stop at the first error.
    """
    pending: deque[tuple[Job, Future[Result]]] = deque()
    workers = ThreadPoolExecutor(threads)
    try:
        for job in jobs:
            pending.append((job, workers.submit(function, job)))
            if len(pending) > 2 * threads:
                yield pending.popleft()
        while pending:
            yield pending.popleft()
    finally:
        workers.shutdown(cancel_futures=True)  # after an error or Ctrl-C, skip the remaining files

"""Reading a few files ahead of whoever works on them."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

THREADS = min(4, os.cpu_count() or 1)
"""Decoding takes milliseconds and leaves Python's lock; processes would each import torch first."""

Job = TypeVar("Job")
Result = TypeVar("Result")


def read_ahead(function: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[tuple[Job, Future[Result]]]:
    """Every job with the future of `function(job)`, in order, run by threads a few jobs ahead of whoever takes them.

    Unlike `ThreadPoolExecutor.map`, which would read a whole set into memory, and which ends with the first error.
    """
    waiting: deque[tuple[Job, Future[Result]]] = deque()
    workers = ThreadPoolExecutor(THREADS)
    try:
        for job in jobs:
            waiting.append((job, workers.submit(function, job)))
            if len(waiting) > 2 * THREADS:
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        workers.shutdown(cancel_futures=True)  # after an error or Ctrl-C, do not read the rest

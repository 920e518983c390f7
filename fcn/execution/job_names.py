"""Directory names of the jobs of a sweep or search."""

from __future__ import annotations

import re
from collections.abc import Sequence

from fcn.config.overrides import split_override


def job_names(job_overrides: Sequence[Sequence[str]], *, first: int = 0) -> list[str]:
    """Return a name for each job: its number, and the overrides that not all jobs share.

    >>> job_names([["model.init=bilinear", "seed=1"], ["model.init=xavier", "seed=1"]])
    ['0_init-bilinear', '1_init-xavier']
    """
    shared = shared_overrides(job_overrides)
    names = []
    for number, overrides in enumerate(job_overrides, start=first):
        slugs = [_slug(override) for override in overrides if override not in shared]
        names.append("_".join([str(number), *filter(None, slugs)]))
    return [name[:80] for name in names]  # file names are limited to 255 bytes


def shared_overrides(job_overrides: Sequence[Sequence[str]]) -> set[str]:
    """Return the overrides that all of several jobs have."""
    return set.intersection(*(set(overrides) for overrides in job_overrides)) if len(job_overrides) > 1 else set()


def _slug(override: str) -> str:
    """Turn `model.init=xavier` into `init-xavier`: safe in file names, on a command line and in TensorBoard."""
    key, value = split_override(override)
    return re.sub(r"[^A-Za-z0-9.+]+", "-", f"{re.split('[./]', key)[-1]}-{value}").strip("-.")

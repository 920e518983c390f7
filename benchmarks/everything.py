"""The benchmarks by their names, one after the other."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from benchmarks import breakdown, data, ddp, evaluation, roofline, start, step, upsampling
from benchmarks.results import BenchmarkError, Findings
from benchmarks.settings import Settings
from fcn.config import nearest

BENCHMARKS: dict[str, Callable[[Settings], Findings]] = {
    "step": step.measure,
    "overhead": step.measure_overhead,
    "breakdown": breakdown.measure,
    "roofline": roofline.measure,
    "data": data.measure,
    "evaluation": evaluation.measure,
    "upsampling": upsampling.measure,
    "start": start.measure,
    "ddp": ddp.measure,
}


def measure(names: Sequence[str], settings: Settings, *, advance: Callable[[], object] = lambda: None) -> Findings:
    """Everything that the named benchmarks find; all of them if none is named.

    Args:
        names: of `BENCHMARKS`.
        settings: of all of them.
        advance: called after each.

    Raises:
        BenchmarkError: if there is no benchmark of a name, before anything is measured; or one cannot be measured.
    """
    for name in names:
        if name not in BENCHMARKS:
            known = ", ".join(BENCHMARKS)
            raise BenchmarkError(f"{name} is no benchmark{nearest(name, list(BENCHMARKS))}; known: {known}")
    for logger in ("pytorch_lightning", "lightning.fabric", "lightning_fabric"):
        logging.getLogger(logger).setLevel(logging.ERROR)
    found = Findings()
    for name in names or BENCHMARKS:
        settings.tell(name)
        found.add(BENCHMARKS[name](settings))
        advance()
    return found

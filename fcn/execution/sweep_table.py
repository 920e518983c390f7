"""What a person sees of a sweep or a search: a live table on a terminal, else a line for every job that ends."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence, Set
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fcn import runs
from fcn.execution.jobs import Job
from fcn.runs import Status

COLORS = {
    Status.queued: "dim",
    Status.running: "cyan",
    Status.finished: "green",
    Status.interrupted: "yellow",
    Status.pruned: "yellow",
    Status.failed: "bold red",
}
SHOWN_FIRST = (Status.running, Status.failed, Status.interrupted, Status.queued, Status.pruned, Status.finished)
"""Where a terminal has fewer lines than a sweep has jobs, those that end up outside are the last of these."""


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        epochs: that have ended.
        best: best val mIoU so far; None before the first validation.
        seconds_per_epoch: of the run so far; None before the first epoch has ended.
        updated: when the latest epoch ended, seconds since the epoch of clocks.
    """

    epochs: int = 0
    best: float | None = None
    seconds_per_epoch: float | None = None
    updated: float = 0.0


def read_progress(run_dir: Path) -> Progress:
    """Progress of the run in `run_dir`, as its files have it."""
    rows, summary = runs.read_metrics(run_dir), runs.read_summary(run_dir)
    best = summary.get("best", {}).get("val/mean_iou")
    if not rows or "seconds" not in summary:
        return Progress(best=best)
    epochs = int(rows[-1]["epoch"]) + 1
    return Progress(epochs, best, summary["seconds"] / epochs, (run_dir / runs.METRICS).stat().st_mtime)


class Board:
    """Shows jobs between `__enter__` and `__exit__`.

    Args:
        folder: of the jobs.
        jobs: more may be appended meanwhile.
        headline: printed at first.
        shared: overrides of all jobs, which are not shown.
    """

    def __init__(self, folder: Path, jobs: Sequence[Job], *, headline: str, shared: Set[str] = frozenset()) -> None:
        self.folder = folder
        self.jobs = jobs
        self.headline = headline
        self._epochs: dict[Job, int] = {}
        self._shared = shared
        self._console = Console()
        self._live = Live(get_renderable=self.table, console=self._console, refresh_per_second=1, transient=True)

    def __enter__(self) -> Board:
        self._print(self.headline)
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.stop()

    def tell(self, job: Job) -> None:
        """Say what has become of a job."""
        if job.state is Status.failed:
            print(f"failed: {job.run_dir.name}: {job.reason}", file=sys.stderr)
        elif not self._console.is_terminal:
            best = read_progress(job.run_dir).best if job.state in (Status.finished, Status.pruned) else None
            scored = "" if best is None else f", best val mIoU {best:.3f}"
            self._print(f"{job.state.value:<11} {job.run_dir.name}{scored}")

    def table(self) -> Table:
        """The jobs as they stand."""
        ranked = sorted(self.jobs, key=lambda job: SHOWN_FIRST.index(job.state))
        shown = set(ranked[: max(3, self._console.height - 6)])
        counts = {state: sum(job.state is state for job in self.jobs) for state in Status}
        caption = ", ".join(f"{count} {state.value}" for state, count in counts.items() if count)
        title = Text(str(self.folder), no_wrap=True, overflow="ellipsis")
        table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
        for heading in ("job", "overrides", "state"):
            table.add_column(heading)
        for heading in ("epoch", "best val mIoU", "time left"):
            table.add_column(heading, justify="right")
        for job in self.jobs:
            if job in shown:
                table.add_row(*self._cells(job))
        return table

    def _cells(self, job: Job) -> list[Text]:
        varied = " ".join(override for override in job.overrides if override not in self._shared)
        progress, epochs = read_progress(job.run_dir), self._num_epochs(job)
        cells = [
            job.run_dir.name.partition("_")[0],
            varied,
            job.state.value,
            f"{progress.epochs}/{epochs}",
            "-" if progress.best is None else f"{progress.best:.3f}",
            _time(job, progress, epochs),
        ]
        return [Text(cell, COLORS[job.state] if place == 2 else "") for place, cell in enumerate(cells)]

    def _num_epochs(self, job: Job) -> int:
        if job not in self._epochs:
            self._epochs[job] = runs.load_config(job.run_dir).epochs
        return self._epochs[job]

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def _time(job: Job, progress: Progress, epochs: int) -> str:
    """Time left of a running job, estimated from its epochs so far; time taken by one that has ended."""
    if job.state is Status.running and progress.seconds_per_epoch is not None:
        left = progress.seconds_per_epoch * (epochs - progress.epochs) - (
            time.time() - max(progress.updated, job.started or 0.0)
        )
        return str(timedelta(seconds=round(max(0.0, left))))
    if job.state is not Status.running and job.started and job.ended:
        return f"took {timedelta(seconds=round(job.ended - job.started))}"
    return "-"

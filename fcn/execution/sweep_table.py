"""Progress display of a sweep or search: a live table on a terminal, otherwise a line per change of a job's state."""

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
PRIORITY = (Status.running, Status.failed, Status.interrupted, Status.queued, Status.pruned, Status.finished)
"""States in the order in which their jobs are displayed when a terminal has too few lines for all jobs."""


@dataclass(frozen=True)
class Progress:
    """Progress of a run.

    Attributes:
        epochs: number of completed epochs.
        best: best val mIoU; None before the first validation.
        seconds: wall-clock time of all executions; 0 before the first epoch has been completed.
        updated: end of the latest epoch, in seconds since the epoch of clocks.
    """

    epochs: int = 0
    best: float | None = None
    seconds: float = 0.0
    updated: float = 0.0


def read_progress(run_dir: Path) -> Progress:
    """Read the progress of a run from the files in its directory."""
    rows, summary = runs.read_metrics(run_dir), runs.read_summary(run_dir)
    best = summary.get("best", {}).get("val/mean_iou")
    if not rows or "seconds" not in summary:
        return Progress(best=best)
    return Progress(int(rows[-1]["epoch"]) + 1, best, summary["seconds"], (run_dir / runs.METRICS).stat().st_mtime)


class SweepTable:
    """Context manager that displays jobs.

    Args:
        folder: contains the run directories.
        jobs: to display; more may be appended later.
        headline: printed first.
        shared: overrides of all jobs, which are omitted.
    """

    def __init__(self, folder: Path, jobs: Sequence[Job], *, headline: str, shared: Set[str] = frozenset()) -> None:
        self.folder = folder
        self.jobs = jobs
        self.headline = headline
        self._num_epochs: dict[Job, int] = {}
        self._reported: dict[Job, Status] = {}
        self._shared = shared
        self._console = Console()
        self._live = Live(get_renderable=self.table, console=self._console, refresh_per_second=1, transient=True)

    def __enter__(self) -> SweepTable:
        self._print(self.headline)
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._live.stop()

    def report(self, job: Job) -> None:
        """Print the state of a job if it has changed since the last call."""
        if self._reported.get(job) is job.state:
            return
        self._reported[job] = job.state
        if job.state is Status.failed:
            print(f"failed: {job.run_dir.name}: {job.reason}", file=sys.stderr)
        elif not self._console.is_terminal:
            best = read_progress(job.run_dir).best if job.state in (Status.finished, Status.pruned) else None
            score = "" if best is None else f", best val mIoU {best:.3f}"
            self._print(f"{job.state.value:<11} {job.run_dir.name}{score}")

    def table(self) -> Table:
        """Return the table of all jobs, or of those with the highest priority that fit into the terminal."""
        by_priority = sorted(self.jobs, key=lambda job: PRIORITY.index(job.state))
        visible = set(by_priority[: max(3, self._console.height - 6)])
        counts = {state: sum(job.state is state for job in self.jobs) for state in PRIORITY}
        caption = ", ".join(f"{count} {state.value}" for state, count in counts.items() if count)
        title = Text(str(self.folder), no_wrap=True, overflow="ellipsis")
        table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
        for heading in ("job", "overrides", "state"):
            table.add_column(heading)
        for heading in ("epoch", "best val mIoU", "time left"):
            table.add_column(heading, justify="right")
        for job in self.jobs:
            if job in visible:
                table.add_row(*self._row(job))
        return table

    def _row(self, job: Job) -> list[Text]:
        progress = read_progress(job.run_dir)
        if job not in self._num_epochs:
            self._num_epochs[job] = runs.load_config(job.run_dir).epochs
        num_epochs = self._num_epochs[job]
        return [
            Text(job.run_dir.name.partition("_")[0]),
            Text(" ".join(override for override in job.overrides if override not in self._shared)),
            Text(job.state.value, COLORS[job.state]),
            Text(f"{progress.epochs}/{num_epochs}"),
            Text("-" if progress.best is None else f"{progress.best:.3f}"),
            Text(_time_text(job, progress, num_epochs)),
        ]

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


def _time_text(job: Job, progress: Progress, num_epochs: int) -> str:
    """Return the time left of a running job, estimated from its epochs so far, or the time that a run has taken."""
    if not progress.seconds:
        return "-"
    if job.state is not Status.running:
        return f"took {timedelta(seconds=round(progress.seconds))}"
    seconds_left = progress.seconds / progress.epochs * (num_epochs - progress.epochs)
    since_update = time.time() - max(progress.updated, job.started or 0.0)
    return str(timedelta(seconds=round(max(0.0, seconds_left - since_update))))

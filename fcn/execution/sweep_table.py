"""Progress display of a sweep or search: a live table on a terminal, otherwise a line per change of a job's state."""

from __future__ import annotations

import functools
import math
import sys
from collections.abc import Sequence, Set
from datetime import timedelta
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from fcn import runs
from fcn.config import Config
from fcn.execution.jobs import Job
from fcn.runs import Status

COLORS = {
    Status.running: "cyan",
    Status.failed: "bold red",
    Status.interrupted: "yellow",
    Status.queued: "dim",
    Status.pruned: "yellow",
    Status.finished: "green",
}
PRIORITY = list(COLORS)
"""States in the order in which their jobs are displayed when a terminal has too few lines for all jobs."""


class SweepTable:
    """Context manager that displays jobs.

    Args:
        folder: folder of the run directories.
        jobs: jobs to display; more may be appended later.
        headline: text that is printed first.
        shared: overrides of all jobs, which are omitted.
    """

    def __init__(self, folder: Path, jobs: Sequence[Job], *, headline: str, shared: Set[str] = frozenset()) -> None:
        self.folder = folder
        self.jobs = jobs
        self.headline = headline
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
            best = runs.best_score(job.run_dir)
            has_score = job.state in (Status.finished, Status.pruned) and not math.isnan(best)
            score = f", best val mIoU {best:.3f}" if has_score else ""
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
        for heading in ("progress", "best val mIoU", "time left"):
            table.add_column(heading, justify="right")
        for job in self.jobs:
            if job in visible:
                table.add_row(*self._row(job))
        return table

    def _row(self, job: Job) -> list[Text]:
        rows, best = runs.read_metrics(job.run_dir), runs.best_score(job.run_dir)
        config = _config(job.run_dir)
        done, total = runs.progress(rows[-1] if rows else None, config)
        time_left = "-"
        if job.state is Status.running and done:
            seconds = runs.read_summary(job.run_dir).get("seconds", 0.0) / done * (total - done)
            time_left = str(timedelta(seconds=round(seconds)))
        return [
            Text(job.run_dir.name.partition("_")[0]),
            Text(" ".join(override for override in job.overrides if override not in self._shared)),
            Text(job.state.value, COLORS[job.state]),
            Text(f"{done}/{total} {'epochs' if config.steps is None else 'steps'}"),
            Text("-" if math.isnan(best) else f"{best:.3f}"),
            Text(time_left),
        ]

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


@functools.cache
def _config(run_dir: Path) -> Config:
    """Return the configuration of a run, which takes too long to read for every refresh."""
    return runs.load_config(run_dir)

"""What is shown of a sweep while it runs."""

import os
import re
import time

import pytest
from rich.console import Console

from fcn import runs
from fcn.config import Config
from fcn.execution.jobs import Job
from fcn.execution.sweep_table import Board, read_progress
from fcn.runs import Status


@pytest.fixture
def run_dir(tmp_path):
    runs.create(tmp_path / "3_lr-0.1", Config(epochs=10))
    return tmp_path / "3_lr-0.1"


def go(run_dir, *, epochs, seconds, best=0.5, ago=0.0):
    """Leave files as a run does after some epochs, the last of which ended `ago` seconds ago."""
    runs.write_metrics(run_dir, [{"epoch": epoch, "step": epoch} for epoch in range(epochs)])
    then = time.time() - ago
    os.utime(run_dir / runs.METRICS, (then, then))
    summary = {"status": "interrupted", "metrics": {}, "best": {"val/mean_iou": best}, "seconds": seconds}
    runs.write_summary(run_dir, summary)


def text(board, *, height=40, width=120):
    console = Console(width=width, height=height)
    board._console = console
    with console.capture() as capture:
        console.print(board.table())
    return capture.get()


def test_progress_of_a_run(run_dir):
    assert read_progress(run_dir).epochs == 0
    assert read_progress(run_dir).best is None
    go(run_dir, epochs=4, seconds=40.0)
    progress = read_progress(run_dir)
    assert (progress.epochs, progress.best, progress.seconds_per_epoch) == (4, 0.5, 10.0)


def test_the_table_has_epoch_score_and_time_left(run_dir):
    job = Job(run_dir, ["epochs=10", "lr=0.1"], Status.running, started=time.time() - 60)
    other = Job(run_dir, ["epochs=10", "lr=0.2"], Status.finished, started=100.0, ended=165.0)
    go(run_dir, epochs=4, seconds=40.0, ago=5.2)
    first, second = (
        line
        for line in text(Board(run_dir.parent, [job, other], headline="", shared={"epochs=10"})).splitlines()
        if "lr=" in line
    )
    for cell in ("3", "lr=0.1", "running", "4/10", "0.500"):
        assert f" {cell} " in first
    assert re.search(r" 0:00:5[0-5] ", first)  # 6 epochs of 10 s, 5 s of which have gone, or more on a busy machine
    assert "epochs=10" not in first  # all jobs share it
    assert "took 0:01:05" in second


def test_the_time_left_of_a_resumed_job_counts_from_its_start(run_dir):
    go(run_dir, epochs=4, seconds=40.0, ago=86400)
    job = Job(run_dir, ["lr=0.1"], Status.running, started=time.time())
    assert "0:01:00" in text(Board(run_dir.parent, [job], headline=""))


def test_a_sweep_longer_than_the_terminal_shows_what_runs_and_what_failed(run_dir):
    states = [Status.finished] * 30 + [Status.failed, Status.running] + [Status.queued] * 30
    jobs = [Job(run_dir, [f"seed={number}"], state) for number, state in enumerate(states)]
    shown = text(Board(run_dir.parent, jobs, headline=""), height=16)
    assert len(shown.splitlines()) <= 16
    assert "seed=30" in shown
    assert "seed=31" in shown
    assert "1 running, 30 finished, 1 failed" in shown.replace("30 queued, ", "")


def test_overrides_are_no_markup(run_dir):
    jobs = [Job(run_dir, [f"data.crop_size=[{size},{size}]"]) for size in (64, 96)]
    assert "data.crop_size=[64,64]" in text(Board(run_dir.parent, jobs, headline=""))


def test_without_a_terminal_there_is_a_line_for_what_happens(run_dir, capsys):
    job = Job(run_dir, ["lr=0.1"])
    go(run_dir, epochs=10, seconds=40.0)
    with Board(run_dir.parent, [job], headline="search of one") as board:
        for state, reason in ((Status.running, ""), (Status.failed, "no luck"), (Status.finished, "")):
            job.state, job.reason = state, reason
            board.tell(job)
    out, err = capsys.readouterr()
    assert out.splitlines() == [
        "search of one",
        "running     3_lr-0.1",
        "finished    3_lr-0.1, best val mIoU 0.500",
    ]
    assert err == "failed: 3_lr-0.1: no luck\n"

"""Progress display of a sweep."""

import pytest
from rich.console import Console

from fcn import runs
from fcn.config import Config
from fcn.execution.jobs import Job
from fcn.execution.sweep_table import SweepTable
from fcn.runs import Status


@pytest.fixture
def run_dir(tmp_path):
    runs.create(tmp_path / "3_lr-0.1", Config(epochs=10))
    return tmp_path / "3_lr-0.1"


def write_epochs(run_dir, count, *, seconds):
    runs.write_metrics(run_dir, [{"epoch": epoch, "step": epoch} for epoch in range(count)])
    summary = {"status": "interrupted", "metrics": {}, "best": {"val/mean_iou": 0.5}, "seconds": seconds}
    runs.write_summary(run_dir, summary)


def text(folder, jobs, *, height=40, width=120, **options):
    table = SweepTable(folder, jobs, headline="", **options)
    table._console = console = Console(width=width, height=height)
    with console.capture() as capture:
        console.print(table.table())
    return capture.get()


def test_row_has_varied_overrides_epoch_score_and_time_left(run_dir):
    write_epochs(run_dir, 4, seconds=40.0)
    running = Job(run_dir, ["epochs=10", "lr=0.1"], Status.running)
    ended = Job(run_dir, ["epochs=10", "lr=0.2"], Status.failed)
    lines = text(run_dir.parent, [running, ended], shared={"epochs=10"}).splitlines()
    first, second = (line for line in lines if "lr=" in line)
    for cell in ("3", "lr=0.1", "running", "4/10 epochs", "0.500", "0:01:00"):
        assert f" {cell} " in first
    assert "epochs=10" not in first
    assert "0:01:00" not in second


def test_progress_in_steps(tmp_path):
    runs.create(tmp_path / "0_", Config(epochs=None, steps=100))
    runs.write_metrics(tmp_path / "0_", [{"epoch": 1, "step": 40}])
    assert " 40/100 steps " in text(tmp_path, [Job(tmp_path / "0_", ["steps=100"])])


def test_terminal_with_few_lines_shows_running_and_failed_jobs(run_dir):
    states = [Status.finished] * 30 + [Status.failed, Status.running] + [Status.queued] * 30
    output = text(run_dir.parent, [Job(run_dir, [f"seed={n}"], state) for n, state in enumerate(states)], height=16)
    assert len(output.splitlines()) <= 16
    assert "seed=30" in output
    assert "seed=31" in output
    assert "1 running, 1 failed, 30 queued, 30 finished" in output


def test_brackets_in_overrides_are_not_markup(run_dir):
    assert "data.crop_size=[64,64]" in text(run_dir.parent, [Job(run_dir, ["data.crop_size=[64,64]"])])


def test_without_a_terminal_each_change_of_state_is_a_line(run_dir, capsys):
    job = Job(run_dir, ["lr=0.1"])
    write_epochs(run_dir, 10, seconds=40.0)
    with SweepTable(run_dir.parent, [job], headline="one job") as table:
        for state in (Status.running, Status.running, Status.failed, Status.finished):
            job.state, job.reason = state, "no space left on device"
            table.report(job)
    out, err = capsys.readouterr()
    assert out.splitlines() == ["one job", "running     3_lr-0.1", "finished    3_lr-0.1, best val mIoU 0.500"]
    assert err == "failed: 3_lr-0.1: no space left on device\n"

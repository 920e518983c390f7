"""The state of a sweep, kept in sweep.json and in its run directories."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.utils import JobStatus
from omegaconf import OmegaConf

from fcn import runs
from fcn.config import Config, ConfigError
from fcn.execution.jobs import Job
from fcn.execution.sweeps import SWEEP, Sweep, SweepFailed, failure, job_names, resume, score
from fcn.runs import Status
from hydra_plugins import fcn_launcher
from tests.commands import ROOT


def finish(run_dir, best=0.5):
    runs.write_summary(run_dir, {"status": "finished", "metrics": {}, "best": {"val/mean_iou": best}})


@pytest.fixture
def sweep(tmp_path):
    """Two jobs that were never executed."""
    sweep = Sweep.load(tmp_path)
    sweep.add([(f"{number}_lr-{lr}", Config(lr=lr, name="mine"), [f"lr={lr}"]) for number, lr in enumerate((0.1, 0.2))])
    return sweep


def test_a_saved_sweep_is_read_back(sweep, tmp_path):
    sweep.jobs[0].started, sweep.jobs[0].ended = 1.5, 2.5
    sweep.jobs[1].state, sweep.jobs[1].reason = Status.failed, "exit status 3\nlast words"
    sweep.save()
    again = Sweep.load(tmp_path)
    facts = ("run_dir", "overrides", "state", "reason", "started", "ended")
    assert [[getattr(job, fact) for fact in facts] for job in again.jobs] == [
        [getattr(job, fact) for fact in facts] for job in sweep.jobs
    ]


@pytest.mark.parametrize(
    ("written", "status", "state"),
    [
        ("queued", None, "queued"),
        ("running", None, "interrupted"),  # the command was killed
        ("running", "interrupted", "interrupted"),
        ("running", "finished", "finished"),  # the command was killed, its job came to its end
        ("failed", "failed", "failed"),
        ("failed", "finished", "finished"),  # gone on with by hand
        ("finished", None, "interrupted"),  # somebody has emptied the run directory
    ],
)
def test_what_a_job_is_after_the_command_has_gone(sweep, tmp_path, written, status, state):
    sweep.jobs[0].state = Status(written)
    sweep.save()
    if status:
        runs.write_summary(sweep.jobs[0].run_dir, {"status": status, "metrics": {}})
    assert Sweep.load(tmp_path).jobs[0].state == state


def test_a_configuration_is_one_job_whatever_its_number(sweep, tmp_path):
    again = Sweep.load(tmp_path)
    known = ("1_lr-0.1", Config(lr=0.1, name="mine"), ["lr=0.1"])
    new = ("0_lr-0.3", Config(lr=0.3, name="mine"), ["lr=0.3"])
    jobs = again.add([new, known, new])
    assert [job.run_dir.name for job in jobs] == ["0_lr-0.3", "0_lr-0.1", "0_lr-0.3"]
    assert [job.run_dir.name for job in again.jobs] == ["0_lr-0.1", "1_lr-0.2", "0_lr-0.3"]
    assert runs.load_config(jobs[0].run_dir).lr == 0.3
    assert runs.load_overrides(jobs[0].run_dir) == ["lr=0.3"]


def test_a_directory_made_before_the_command_was_killed_is_taken_over(tmp_path):
    runs.create(tmp_path / "0_lr-0.1", Config(lr=0.1))
    sweep = Sweep.load(tmp_path)
    sweep.add([("0_lr-0.1", Config(lr=0.1), ["lr=0.1"])])
    assert [job.run_dir.name for job in sweep.jobs] == ["0_lr-0.1"]


def test_a_name_stands_for_one_configuration(sweep, tmp_path):
    """What is refused makes no directory, not even for the jobs before it."""
    message = r"0_lr-0.1 holds a run that differs in lr, seed; use another hydra.sweep.dir, or leave these as they were"
    with pytest.raises(ConfigError, match=message):
        sweep.add([("2_lr-9", Config(lr=9), ["lr=9"]), ("0_lr-0.1", Config(lr=0.4, seed=1, name="mine"), ["lr=0.4"])])
    assert {path.name for path in tmp_path.iterdir()} == {"0_lr-0.1", "1_lr-0.2", SWEEP}


def test_a_job_whose_directory_was_deleted_is_made_anew(sweep, tmp_path):
    shutil.rmtree(tmp_path / "0_lr-0.1")
    again = Sweep.load(tmp_path)
    assert [job.run_dir.name for job in again.jobs] == ["1_lr-0.2"]
    again.add([("0_lr-0.1", Config(lr=0.1, name="mine"), ["lr=0.1"])])
    assert (tmp_path / "0_lr-0.1" / runs.CONFIG).is_file()


@pytest.mark.parametrize(
    "text", ["", '{"jobs": {"0_lr-0.1"', "{}", "[]", '{"jobs": {"0_lr-0.1": {"state": "paused"}}}']
)
def test_a_sweep_that_cannot_be_read_is_one_line(sweep, tmp_path, text):
    (tmp_path / SWEEP).write_text(text)
    with pytest.raises(
        ConfigError, match=r"sweep.json must be of a sweep of this version \(\w+Error: .*delete it, and type"
    ):
        Sweep.load(tmp_path)


def test_a_sweep_is_held_by_one_command(sweep, tmp_path):
    held = subprocess.Popen([sys.executable, "-c", HOLD, tmp_path], stdout=subprocess.PIPE, cwd=ROOT)
    assert held.stdout.readline()
    with pytest.raises(ConfigError, match=f"is being executed by process {held.pid} on "):
        resume(tmp_path)
    held.kill()


HOLD = """
import sys, time
from pathlib import Path
from fcn.execution import sweeps
with sweeps.holding(Path(sys.argv[1])):
    print(flush=True)
    time.sleep(60)
"""


def test_finished_jobs_are_not_executed_again(sweep, tmp_path, capsys):
    """Nothing is started at all: there is no process that could have ended."""
    for job, best in zip(sweep.jobs, (0.25, 0.75), strict=True):
        finish(job.run_dir, best)
    sweep.save()
    assert resume(tmp_path) == {"0_lr-0.1": 0.25, "1_lr-0.2": 0.75}
    assert f"sweep    {tmp_path}: 2 jobs, 2 of them finished already, one at a time" in capsys.readouterr().out
    assert not list(tmp_path.rglob(runs.CONSOLE))
    assert {job["state"] for job in json.loads((tmp_path / SWEEP).read_text())["jobs"].values()} == {"finished"}


def test_the_score_is_the_best_val_mean_iou(tmp_path):
    assert math.isnan(score(tmp_path))
    finish(tmp_path, 0.5)
    assert score(tmp_path) == 0.5


def test_the_sweeper_gets_the_score_of_a_job_or_what_failed(sweep):
    done, failed = sweep.jobs
    finish(done.run_dir, 0.25)
    done.state, failed.state = Status.finished, Status.failed
    first, second = (fcn_launcher._returned(job, OmegaConf.create(), failure(sweep.jobs)) for job in sweep.jobs)
    assert (first.status, first.return_value, first.overrides) == (JobStatus.COMPLETED, 0.25, ["lr=0.1"])
    assert second.status is JobStatus.FAILED
    with pytest.raises(SweepFailed, match="1 of 2 jobs failed"):
        _ = second.return_value


@pytest.mark.parametrize(
    ("states", "message"),
    [
        (["finished", "failed", "failed"], "2 of 3 jobs failed; go on with resume=outputs/sweep"),
        (["interrupted", "failed", "finished"], "1 of 3 jobs failed; go on with resume=outputs/sweep"),
        (["interrupted", "finished"], "1 of 2 jobs were stopped; go on with resume=outputs/sweep"),
    ],
)
def test_what_is_raised_for_jobs_that_are_not_finished(states, message):
    jobs = [Job(Path("outputs/sweep", str(n)), state=Status(state)) for n, state in enumerate(states)]
    error = failure(jobs)
    assert isinstance(error, SweepFailed)
    assert str(error) == message
    assert failure([job for job in jobs if job.state is Status.finished]) is None


@pytest.mark.parametrize(
    ("overrides", "names"),
    [
        ([["a.b=1", "c=x"], ["a.b=2", "c=x"]], ["0_b-1", "1_b-2"]),
        ([["a=1"]], ["0_a-1"]),
        ([["data.root=/some/where"], ["data.root=../else"]], ["0_root-some-where", "1_root-else"]),
        ([["data.crop_size=[1,2]"], ["data.crop_size=[3,4]"]], ["0_crop-size-1-2", "1_crop-size-3-4"]),
        ([["model/init=xavier"], ["~lr"]], ["0_init-xavier", "1_lr"]),
    ],
)
def test_job_names(overrides, names):
    assert job_names(overrides) == names


def test_long_job_names_are_cut_and_stay_apart():
    names = job_names([[f"name={'x' * 300}{number}"] for number in range(3)])
    assert all(len(name) <= 80 for name in names)
    assert len(set(names)) == 3

"""The state of a sweep, in sweep.json and in its run directories."""

import math
import shutil
from pathlib import Path

import pytest
from hydra.core.utils import JobStatus
from omegaconf import OmegaConf

from fcn import runs
from fcn.config import Config, ConfigError
from fcn.execution import device_slots
from fcn.execution.jobs import Job
from fcn.execution.sweeps import SWEEP, Sweep, SweepFailed, resume_sweep, sweep_failure, sweep_lock
from fcn.runs import Status
from hydra_plugins import fcn_launcher
from tests.commands import type_in


def finish(run_dir, best=0.5):
    runs.write_summary(run_dir, {"status": "finished", "metrics": {}, "best": {"val/mean_iou": best}})


@pytest.fixture
def sweep(tmp_path):
    """Two jobs that were never executed."""
    sweep = Sweep.load(tmp_path)
    sweep.add([(f"{number}_lr-{lr}", Config(lr=lr, name="mine"), [f"lr={lr}"]) for number, lr in enumerate((0.1, 0.2))])
    return sweep


@pytest.mark.parametrize("status", [None, "interrupted", "failed"])
def test_loaded_sweep_has_its_jobs_in_order_and_those_that_are_not_finished_queued(sweep, tmp_path, status):
    finish(sweep.jobs[1].run_dir)
    if status:
        runs.write_summary(sweep.jobs[0].run_dir, {"status": status, "metrics": {}})
    facts = [(job.run_dir.name, job.overrides, job.state) for job in Sweep.load(tmp_path).jobs]
    assert facts == [("0_lr-0.1", ["lr=0.1"], Status.queued), ("1_lr-0.2", ["lr=0.2"], Status.finished)]


def test_equal_configurations_share_one_job(sweep, tmp_path):
    again = Sweep.load(tmp_path)
    known = ("1_lr-0.1", Config(lr=0.1, name="mine"), ["lr=0.1"])
    new = ("0_lr-0.3", Config(lr=0.3, name="mine"), ["lr=0.3"])
    jobs = again.add([new, known, new])
    assert [job.run_dir.name for job in jobs] == ["0_lr-0.3", "0_lr-0.1", "0_lr-0.3"]
    assert [job.run_dir.name for job in again.jobs] == ["0_lr-0.1", "1_lr-0.2", "0_lr-0.3"]
    assert runs.load_config(jobs[0].run_dir).lr == 0.3
    assert runs.load_overrides(jobs[0].run_dir) == ["lr=0.3"]


def test_run_directory_without_entry_in_sweep_json_is_used(tmp_path):
    runs.create(tmp_path / "0_lr-0.1", Config(lr=0.1))
    sweep = Sweep.load(tmp_path)
    sweep.add([("0_lr-0.1", Config(lr=0.1), ["lr=0.1"])])
    assert [job.run_dir.name for job in sweep.jobs] == ["0_lr-0.1"]


def test_name_of_another_configuration_is_refused_before_any_directory_is_created(sweep, tmp_path):
    message = r"0_lr-0.1 contains a run with other values of lr, seed; use another hydra.sweep.dir, or the same"
    with pytest.raises(ConfigError, match=message):
        sweep.add([("2_lr-9", Config(lr=9), ["lr=9"]), ("0_lr-0.1", Config(lr=0.4, seed=1, name="mine"), ["lr=0.4"])])
    assert {path.name for path in tmp_path.iterdir()} == {"0_lr-0.1", "1_lr-0.2", SWEEP}


def test_job_with_a_deleted_directory_is_created_again(sweep, tmp_path):
    shutil.rmtree(tmp_path / "0_lr-0.1")
    again = Sweep.load(tmp_path)
    assert [job.run_dir.name for job in again.jobs] == ["1_lr-0.2"]
    again.add([("0_lr-0.1", Config(lr=0.1, name="mine"), ["lr=0.1"])])
    assert (tmp_path / "0_lr-0.1" / runs.CONFIG).is_file()


@pytest.mark.parametrize("text", ["", '{"jobs": ["0_lr-0.1"', "{}", "[]", '{"jobs": 2}', '{"jobs": [2]}'])
def test_invalid_sweep_json(sweep, tmp_path, text):
    (tmp_path / SWEEP).write_text(text)
    with pytest.raises(ConfigError, match=r"sweep.json must be the list of a sweep's jobs \(\w+Error: .*; delete it"):
        Sweep.load(tmp_path)


def test_sweep_is_used_by_one_command_at_a_time(sweep, tmp_path):
    with sweep_lock(tmp_path), pytest.raises(ConfigError, match="is being executed by process"):
        resume_sweep(tmp_path)


def test_finished_jobs_are_not_executed_again(sweep, tmp_path, capsys):
    for job, best in zip(sweep.jobs, (0.25, 0.75), strict=True):
        finish(job.run_dir, best)
    assert resume_sweep(tmp_path) == {"0_lr-0.1": 0.25, "1_lr-0.2": 0.75}
    assert f"sweep    {tmp_path}: 2 jobs, 2 of them finished already, one at a time" in capsys.readouterr().out
    assert not list(tmp_path.rglob(runs.CONSOLE))


def test_jobs_share_gpus(monkeypatch, capsys, tmp_path):
    """The keys of the launcher reach the slots, of a new sweep and of a resumed one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(device_slots, "count_gpus", lambda: 2)
    used = []
    monkeypatch.setattr(Sweep, "execute", lambda sweep, jobs, slots: used.append(slots))
    per_gpu = "hydra.launcher.slots_per_gpu=2"
    type_in(monkeypatch, capsys, "-m", "trainer=gpu", "lr=0.1,0.2", "hydra.sweep.dir=sweep", per_gpu)
    type_in(monkeypatch, capsys, "resume=sweep", per_gpu)
    type_in(monkeypatch, capsys, "resume=sweep", per_gpu, "hydra.launcher.slots=1")
    shared = [{"CUDA_VISIBLE_DEVICES": gpu} for gpu in ("0", "1", "0", "1")]
    assert used == [shared, shared, shared[:1]]


def test_sweeper_gets_the_score_or_the_failure(sweep):
    done, failed = sweep.jobs
    finish(done.run_dir, 0.25)
    done.state, failed.state = Status.finished, Status.failed
    assert math.isnan(runs.best_score(failed.run_dir))
    first, second = (fcn_launcher._job_return(job, OmegaConf.create(), sweep_failure(sweep.jobs)) for job in sweep.jobs)
    assert (first.status, first.return_value, first.overrides) == (JobStatus.COMPLETED, 0.25, ["lr=0.1"])
    assert second.status is JobStatus.FAILED
    with pytest.raises(SweepFailed, match="1 of 2 jobs failed"):
        _ = second.return_value


@pytest.mark.parametrize(
    ("states", "message"),
    [
        (["finished", "failed", "failed"], "2 of 3 jobs failed; continue with resume=outputs/sweep"),
        (["interrupted", "failed", "finished"], "1 of 3 jobs failed; continue with resume=outputs/sweep"),
        (["interrupted", "finished"], "1 of 2 jobs were stopped; continue with resume=outputs/sweep"),
    ],
)
def test_failure_of_unfinished_jobs(states, message):
    jobs = [Job(Path("outputs/sweep", str(n)), state=Status(state)) for n, state in enumerate(states)]
    error = sweep_failure(jobs)
    assert isinstance(error, SweepFailed)
    assert str(error) == message
    assert sweep_failure([job for job in jobs if job.state is Status.finished]) is None

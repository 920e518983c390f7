"""Locks of a search, also on machines whose shared folder has no locks of the system."""

import errno
import fcntl
import multiprocessing
import os
import time
from pathlib import Path

import pytest

from fcn import runs
from fcn.config import Config
from fcn.execution import search_locks
from fcn.execution.search_locks import OWNER_LOCK, is_abandoned, owns_trial, search_lock, trial_lock
from fcn.execution.search_plan import JOURNAL, SearchPlan
from fcn.runs.locks import FolderLocked

ELSEWHERE = "process 1 on another-machine"


def plan(folder: Path) -> SearchPlan:
    return SearchPlan(folder, {}, [], Config(), lambda overrides: Config(), trials=1, storage=JOURNAL)


@pytest.fixture
def no_flock(monkeypatch):
    """Make the file system one without locks, in this process and in its forks."""

    def flock(descriptor, operation):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)


def _count(folder: Path) -> None:
    """Count to 20 in a file, in a way that loses counts if two processes do it at once."""
    for _ in range(20):
        with search_lock(plan(folder)):
            number = int((folder / "count").read_text())
            time.sleep(0.002)
            (folder / "count").write_text(str(number + 1))


def test_one_process_at_a_time_chooses_a_trial(tmp_path, no_flock):
    (tmp_path / "count").write_text("0")
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_count, args=(tmp_path,)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert (tmp_path / "count").read_text() == "60"
    assert {path.name for path in tmp_path.iterdir()} == {"count", runs.LOCK}


def test_lock_of_a_killed_machine_is_ignored_after_a_while(tmp_path, monkeypatch):
    monkeypatch.setitem(search_locks.GRACE_SECONDS, search_locks.CHOICE_LOCK, 3)
    (tmp_path / ".choice.lock").touch()
    start = time.monotonic()
    with search_lock(plan(tmp_path)):
        assert 3 < time.monotonic() - start < 30


def test_lock_that_another_machine_has_taken_over_is_not_released(tmp_path):
    path = tmp_path / ".choice.lock"
    with search_lock(plan(tmp_path)):
        path.unlink()  # after a pause of this machine
        (tmp_path / "other").touch()
        os.utime(tmp_path / "other", (1, 1))
        (tmp_path / "other").rename(path)
    assert path.exists()


@pytest.fixture
def run_dir(tmp_path) -> Path:
    """Run directory of a trial in the folder of a search."""
    (tmp_path / runs.LOCK).touch()
    return tmp_path / "0_lr-1"


def set_owner(run_dir: Path, owner: str, *, age: float) -> None:
    run_dir.mkdir(exist_ok=True)
    (run_dir / OWNER_LOCK).write_text(owner)
    os.utime(run_dir / OWNER_LOCK, (time.time() - age,) * 2)


def test_trial_is_abandoned_after_its_process_has_ended(run_dir):
    assert is_abandoned(run_dir)  # it has not even been created
    with trial_lock(run_dir):
        assert owns_trial(run_dir)
        assert not is_abandoned(run_dir)
        with pytest.raises(FolderLocked, match=f"is being executed by process {os.getpid()} on"), trial_lock(run_dir):
            pass
    assert is_abandoned(run_dir)
    set_owner(run_dir, f"process 1 on {os.uname().nodename}", age=0)  # killed; the system has released its lock
    assert is_abandoned(run_dir)


@pytest.mark.parametrize(("owner", "age", "expected"), [(ELSEWHERE, 60, False), (ELSEWHERE, 180, True), ("", 0, True)])
def test_trial_of_another_machine_is_abandoned_without_a_heartbeat(run_dir, owner, age, expected):
    """Also if its clock is wrong: ages are differences of times of files. A released lock has no owner."""
    set_owner(run_dir, owner, age=age)
    assert is_abandoned(run_dir) is expected
    assert (run_dir / OWNER_LOCK).read_text() == owner


@pytest.mark.parametrize("age", [60, 180])
def test_without_locks_the_heartbeat_decides_also_on_this_machine(run_dir, no_flock, age):
    set_owner(run_dir, f"process 1 on {os.uname().nodename}", age=age)
    assert is_abandoned(run_dir) is (age > 120)


def test_heartbeat(run_dir, monkeypatch):
    monkeypatch.setattr("fcn.execution.search_locks.HEARTBEAT_SECONDS", 0.01)
    with trial_lock(run_dir):
        os.utime(run_dir / OWNER_LOCK, (0, 0))
        time.sleep(0.5)
        assert time.time() - (run_dir / OWNER_LOCK).stat().st_mtime < 30


def test_lost_trial_is_left_to_its_new_owner(run_dir):
    with trial_lock(run_dir):
        set_owner(run_dir, ELSEWHERE, age=0)
        assert not owns_trial(run_dir)
    assert (run_dir / OWNER_LOCK).read_text() == ELSEWHERE

"""Jobs side by side: real processes, here of a line of Python each instead of a training."""

import os
import signal
import sys
import threading
import time
from dataclasses import dataclass

import pytest

from fcn import runs
from fcn.execution.jobs import Job, run_jobs
from fcn.runs import Status

FINISH = "import json, sys; json.dump({'status': 'finished', 'metrics': {}}, open(sys.argv[1] + '/summary.json', 'w'))"
SAVE_ON_SIGTERM = (
    "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)); "
    "open(sys.argv[1] + '/ready', 'w'); time.sleep(60)"
)
DEAF = SAVE_ON_SIGTERM.replace("lambda *_: sys.exit(143)", "signal.SIG_IGN")


@dataclass(eq=False)
class Line(Job):
    """A job whose process runs a line of Python with the run directory as its argument."""

    code: str = FINISH

    def command(self):
        return [sys.executable, "-S", "-c", self.code, str(self.run_dir)]


@pytest.fixture
def job(tmp_path):
    """Makes jobs in directories of their own."""

    def make(name, code=FINISH):
        (tmp_path / name).mkdir()
        return Line(tmp_path / name, code=code)

    return make


def ignore(_):
    pass


def test_every_job_is_executed_once_and_no_more_at_a_time_than_there_are_slots(job, tmp_path):
    note = "import os, time; log = open('{}', 'a', buffering=1); log.write('+' + os.environ['SLOT'] + '\\n'); "
    code = note.format(tmp_path / "log") + "time.sleep(0.1); log.write('-' + os.environ['SLOT'] + '\\n'); " + FINISH
    jobs = [job(str(number), code) for number in range(5)]
    seen: list[tuple[Job, Status]] = []
    assert run_jobs(jobs, [{"SLOT": "a"}, {"SLOT": "b"}], watch=lambda one: seen.append((one, one.state))) == 0
    events = (tmp_path / "log").read_text().split()
    assert sorted(event[0] for event in events) == ["+"] * 5 + ["-"] * 5
    for slot in "ab":  # a slot is taken, then given back
        mine = [event[0] for event in events if event[1] == slot]
        assert mine == ["+", "-"] * (len(mine) // 2)
        assert mine
    for one in jobs:
        states = [state for watched, state in seen if watched is one]
        assert states[0] is Status.running
        assert states[-1] is Status.finished
        assert states.count(Status.finished) == 1
        assert one.started <= one.ended


def test_a_failed_job_gives_its_reason_and_the_others_go_on(job):
    said = job("said", "import sys; print('epoch 1'); sys.exit('error: lr (=9) must be small')")
    crashed = job("crashed", "print('epoch 1'); print('epoch 2'); raise SystemExit(3)")
    killed = job("killed", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    unfinished = job("unfinished", "pass")  # ended without a word, and without a summary
    last = job("last")
    run_jobs([said, crashed, killed, unfinished, last], [{}], watch=ignore)
    assert [one.state for one in (said, crashed, killed, unfinished)] == [Status.failed] * 4
    assert last.state is Status.finished
    assert said.reason == "lr (=9) must be small"
    assert crashed.reason == "exit status 3\nepoch 1\nepoch 2"
    assert killed.reason == "killed by SIGKILL"
    assert unfinished.reason == "exit status 0"


@pytest.mark.parametrize("number", runs.STOP_SIGNALS)
def test_a_signal_stops_the_jobs_and_starts_no_more(job, number):
    first, second, third = job("1", SAVE_ON_SIGTERM), job("2", SAVE_ON_SIGTERM), job("3")

    def stop_when_both_run(_):
        if all((one.run_dir / "ready").exists() for one in (first, second)):
            (first.run_dir / "ready").unlink()
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    assert run_jobs([first, second, third], [{}, {}], watch=stop_when_both_run) == number
    assert [one.state for one in (first, second, third)] == [Status.interrupted, Status.interrupted, Status.queued]
    assert signal.getsignal(number) is before


def test_a_second_signal_kills_what_does_not_stop(job):
    deaf = job("deaf", DEAF)
    end = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))

    def stop(_):
        if (deaf.run_dir / "ready").exists() and not end.is_alive():
            (deaf.run_dir / "ready").unlink()
            os.kill(os.getpid(), signal.SIGINT)
            end.start()

    assert run_jobs([deaf], [{}], watch=stop) == signal.SIGINT
    assert deaf.state is Status.interrupted  # it would have run for a minute


def test_jobs_do_not_outlive_an_exception(job):
    long = job("long", SAVE_ON_SIGTERM)

    def fail(one):
        if (one.run_dir / "ready").exists():
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        run_jobs([long], [{}], watch=fail)
    end = time.monotonic() + 10
    while not long.poll():
        assert time.monotonic() < end
        time.sleep(0.02)
    assert long.state is Status.interrupted


def test_jobs_are_drawn_when_a_slot_is_free(job):
    """A search chooses its next trial by what the earlier ones gave."""
    ended = []

    def draw():
        for number in range(3):
            assert len(ended) == number
            yield job(str(number))

    run_jobs(draw(), [{}], watch=lambda one: ended.append(one) if one.state is Status.finished else None)
    assert len(ended) == 3


def test_what_a_job_prints_is_kept(job):
    """Of every start: a job that goes on adds to its console.log."""
    talking = job("talking", "print('so far'); raise SystemExit(1)")
    run_jobs([talking], [{}], watch=ignore)
    run_jobs([talking], [{}], watch=ignore)
    assert (talking.run_dir / "console.log").read_text() == "so far\nso far\n"

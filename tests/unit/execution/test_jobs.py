"""Concurrent jobs: real processes, each of which executes a line of Python instead of a training."""

import os
import signal
import sys
import threading
from dataclasses import dataclass

import pytest

from fcn import runs
from fcn.execution.jobs import Job, record_failure, run_jobs
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


def test_each_slot_executes_one_job_at_a_time(job, tmp_path):
    note = "import os, time; log = open('{}', 'a', buffering=1); log.write('+' + os.environ['SLOT'] + '\\n'); "
    code = note.format(tmp_path / "log") + "time.sleep(0.1); log.write('-' + os.environ['SLOT'] + '\\n'); " + FINISH
    jobs = [job(str(number), code) for number in range(5)]
    seen: list[tuple[Job, Status]] = []
    assert run_jobs(jobs, [{"SLOT": "a"}, {"SLOT": "b"}], watch=lambda one: seen.append((one, one.state))) == 0
    events = (tmp_path / "log").read_text().split()
    assert sorted(event[0] for event in events) == ["+"] * 5 + ["-"] * 5
    for slot in "ab":
        mine = [event[0] for event in events if event[1] == slot]
        assert mine == ["+", "-"] * (len(mine) // 2)
        assert mine
    for one in jobs:
        states = [state for watched, state in seen if watched is one]
        assert states[0] is Status.running
        assert states[-1] is Status.finished
        assert states.count(Status.finished) == 1


def test_failed_jobs_have_a_reason_and_do_not_stop_the_others(job):
    record = "import sys; print('epoch 1'); open(sys.argv[1] + '/failure.txt', 'w').write('lr (=9) must be small\\n')"
    recorded = job("recorded", f"{record}; sys.exit(1)")
    crashed = job("crashed", "print('epoch 1'); print('epoch 2'); raise SystemExit(3)")
    killed = job("killed", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    unfinished = job("unfinished", "pass")  # without a summary
    last = job("last")
    run_jobs([recorded, crashed, killed, unfinished, last], [{}], watch=ignore)
    assert [one.state for one in (recorded, crashed, killed, unfinished)] == [Status.failed] * 4
    assert last.state is Status.finished
    assert recorded.reason == "lr (=9) must be small"
    assert crashed.reason == "exit status 3\nepoch 1\nepoch 2"
    assert killed.reason == "killed by SIGKILL"
    assert unfinished.reason == "exit status 0"


@pytest.mark.parametrize("number", runs.STOP_SIGNALS)
def test_signal_stops_running_jobs_and_starts_no_more(job, number):
    first, second, third = job("1", SAVE_ON_SIGTERM), job("2", SAVE_ON_SIGTERM), job("3")

    def stop_when_both_run(_):
        if all((one.run_dir / "ready").exists() for one in (first, second)):
            (first.run_dir / "ready").unlink()
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    assert run_jobs([first, second, third], [{}, {}], watch=stop_when_both_run) == number
    assert [one.state for one in (first, second, third)] == [Status.interrupted, Status.interrupted, Status.queued]
    assert signal.getsignal(number) is before


def test_second_signal_kills_jobs_that_do_not_stop(job):
    deaf = job("deaf", DEAF)
    end = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))

    def stop(_):
        if (deaf.run_dir / "ready").exists() and not end.is_alive():
            (deaf.run_dir / "ready").unlink()
            os.kill(os.getpid(), signal.SIGINT)
            end.start()

    assert run_jobs([deaf], [{}], watch=stop) == signal.SIGINT
    assert deaf.state is Status.interrupted  # it would have run for a minute


def test_exception_stops_running_jobs(job):
    long = job("long", SAVE_ON_SIGTERM)

    def fail(one):
        if (one.run_dir / "ready").exists():
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        run_jobs([long], [{}], watch=fail)
    assert long.poll()  # its directory can be given to another process
    assert long.state is Status.interrupted


def test_next_job_is_requested_when_a_slot_is_free(job):
    """A search chooses its next trial by the scores of the earlier ones."""
    ended = []

    def draw():
        for number in range(3):
            assert len(ended) == number
            yield job(str(number))

    run_jobs(draw(), [{}], watch=lambda one: ended.append(one) if one.state is Status.finished else None)
    assert len(ended) == 3


def test_every_start_appends_its_output_and_removes_the_reason_of_an_earlier_failure(job):
    talking = job("talking", "print('so far'); raise SystemExit(1)")
    record_failure(talking.run_dir, "no space left on device")
    for _ in range(2):
        run_jobs([talking], [{}], watch=ignore)
        assert talking.reason.startswith("exit status 1")
    assert (talking.run_dir / "console.log").read_text() == "so far\nso far\n"

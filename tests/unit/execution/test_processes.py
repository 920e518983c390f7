"""Which of the ranks that failed is told of."""

from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure, get_error_handler

from fcn.config import Config, flatten, to_container
from fcn.errors import RunFailure
from fcn.execution import processes
from fcn.training.watchdog import RankStalled

GONE = RuntimeError("[pair.cc:534] Connection closed by peer [::1]:1")


@pytest.fixture
def told(tmp_path, monkeypatch):
    """What is told of ranks that ended with these exceptions or exit statuses, at the same time."""

    def failure(rank, end):
        file = tmp_path / f"{rank}.json"
        file.unlink(missing_ok=True)
        if isinstance(end, Exception):
            monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(file))
            get_error_handler().record_exception(end)
        return ProcessFailure(rank, 1, end if isinstance(end, int) else 1, str(file))

    def told(*ends):
        error = ChildFailedError("fcn.worker", {rank: failure(rank, end) for rank, end in enumerate(ends) if end})
        return processes._root_cause(error, Path("a/run"), flatten(to_container(Config())))

    return told


def test_the_rank_that_was_killed_and_not_the_one_that_lost_it(told):
    line = told(GONE, -9)
    assert line.startswith("rank 1 was killed (SIGKILL), usually because memory ran out")
    assert line.endswith("; then resume=a/run goes on")
    assert told(GONE, ValueError("broken image")) == "rank 1 failed: ValueError: broken image"
    assert told(0, RunFailure("x: disk full; make room")) == "rank 1 failed: x: disk full; make room"
    assert told(3) == "rank 0 failed: exit status 3"


def test_what_hangs_is_told_of_before_what_was_killed_for_it(told):
    assert told(-9, RankStalled("rank 0 stalled at step 4")) == "rank 0 stalled at step 4"
    assert processes.STALLED.startswith(RankStalled.__name__)

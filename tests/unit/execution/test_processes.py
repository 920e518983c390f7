"""Child processes of a run: the root cause that is reported when ranks fail, and their environment."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure, get_error_handler

from fcn.config import Config, flatten, to_container
from fcn.errors import RunFailure
from fcn.execution import processes
from fcn.training.watchdog import RankStalled

CONNECTION_LOST = RuntimeError("[pair.cc:534] Connection closed by peer [::1]:1")


@pytest.fixture
def root_cause(tmp_path, monkeypatch):
    """Return the message for ranks that ended at the same time with these exceptions or exit statuses."""

    def failure(rank, end):
        file = tmp_path / f"{rank}.json"
        file.unlink(missing_ok=True)
        if isinstance(end, Exception):
            monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(file))
            get_error_handler().record_exception(end)
        return ProcessFailure(rank, 1, end if isinstance(end, int) else 1, str(file))

    def message(*ends):
        error = ChildFailedError("fcn.worker", {rank: failure(rank, end) for rank, end in enumerate(ends) if end})
        return processes._root_cause(error, Path("a/run"), flatten(to_container(Config())))

    return message


def test_killed_rank_is_reported_before_the_rank_that_lost_the_connection(root_cause):
    line = root_cause(CONNECTION_LOST, -9)
    assert line.startswith("rank 1 was killed (SIGKILL), usually because memory ran out")
    assert line.endswith("; then continue with resume=a/run")


@pytest.mark.parametrize(
    ("ends", "message"),
    [
        ((CONNECTION_LOST, ValueError("broken image")), "rank 1 failed: ValueError: broken image"),
        ((0, RunFailure("x: disk full; make room")), "rank 1 failed: x: disk full; make room"),
        ((3,), "rank 0 failed: exit status 3"),
    ],
)
def test_message_of_the_failed_rank(root_cause, ends, message):
    assert root_cause(*ends) == message


def test_stalled_rank_is_reported_before_the_rank_killed_because_of_it(root_cause):
    assert root_cause(-9, RankStalled("rank 0 stalled at step 4")) == "rank 0 stalled at step 4"
    assert processes.STALLED.startswith(RankStalled.__name__)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 always searches the current folder first")
def test_files_of_the_current_folder_do_not_replace_modules(tmp_path):
    (tmp_path / "logging.py").write_text("raise SystemExit('imported from the current folder')")
    environment = {**os.environ, **processes.child_environment()}
    run = subprocess.run(
        [sys.executable, "-m", "fcn.worker"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert run.stderr == "usage: python -m fcn.worker RUN_DIR\n"

"""Invalid input produces the one-line message of tests/matrix/messages.txt and leaves no partial files.

    UPDATE_MESSAGES=1 pytest -m "" tests/integration/test_bad_input.py

writes the messages to the file instead of comparing them.
"""

import contextlib
import ctypes
import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path

import pytest
import torch

import fcn
from fcn import runs
from fcn.cli import train
from fcn.inference.predicted_files import LEGEND
from fcn.runs.provenance import Code
from fcn.runs.resume import LOCK
from tests.commands import load_command, type_in
from tests.matrix import MESSAGES, checkpoints, configuration, data, prediction, read_messages, write_messages
from tests.matrix.case import OWN, own_data

SECTIONS = {**configuration.SECTIONS, **data.SECTIONS, **checkpoints.SECTIONS, **prediction.SECTIONS}
MARKS = [[], *3 * [[pytest.mark.slow]], [pytest.mark.exhaustive]]
# One case of every section runs by default, four in CI, all before a release and after a change of messages.
CASES = [
    pytest.param(title, case, id=f"{title}: {case.description}", marks=MARKS[min(number, 4)])
    for title, cases in SECTIONS.items()
    for number, case in enumerate(cases)
]
UPDATES = os.environ.get("UPDATE_MESSAGES") == "1"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """Directory of a finished run of one step."""
    folder = tmp_path_factory.mktemp("trained")
    own_data(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        config = fcn.compose(*OWN)
        runs.create(Path("run"), config, overrides=OWN)
        fcn.train(config, Path("run"))
    return folder / "run"


@pytest.fixture
def folder(tmp_path, monkeypatch, trained) -> Path:
    """Working directory of the command; it contains `run`."""
    shutil.copytree(trained, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("fcn.runs.locks.PATIENCE", 0)
    return tmp_path


@pytest.fixture
def ordinary_user():
    """Take the right to ignore file permissions from root while the test runs."""
    if sys.platform != "linux" or os.geteuid():
        yield
        return
    libc = ctypes.CDLL(None)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3 of the call, this thread
    before, without = (ctypes.c_uint32 * 6)(), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, before) == 0
    without[:] = before[:]
    without[0] &= ~(1 << 1 | 1 << 2)  # effective: CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert libc.capset(header, without) == 0
    yield
    libc.capset(header, before)


@pytest.fixture(scope="module")
def messages():
    """Messages by the name of their case; with UPDATE_MESSAGES=1 they are written in the order of the cases."""
    messages = read_messages(MESSAGES)
    yield messages
    if UPDATES:
        names = [f"{title}: {case.description}" for title, cases in SECTIONS.items() for case in cases]
        write_messages(MESSAGES, {name: messages[name] for name in names if name in messages})


def test_every_message_belongs_to_a_case():
    assert set(read_messages(MESSAGES)) == {
        f"{title}: {case.description}" for title, cases in SECTIONS.items() for case in cases
    }


@pytest.mark.parametrize(("title", "case"), CASES)
def test_invalid_input_produces_a_one_line_error(title, case, folder, ordinary_user, monkeypatch, capsys, messages):
    if torch.cuda.is_available() and any("gpu" in argument for argument in case.arguments):
        pytest.skip("needs a machine without GPUs")
    held = case.given(folder)
    before = _state(folder)
    script = train if case.script == "train" else load_command(case.script)
    with time_limit(20):
        status, out, err = type_in(monkeypatch, capsys, *case.arguments, script=script)
    del held
    output = out.splitlines()[-2] if case.accepted else err.rstrip("\n")  # the scores, above the speed
    message = f"{without_variable_parts(output, folder)}\nexit status {status}"
    if UPDATES:
        messages[f"{title}: {case.description}"] = message
    assert message == messages[f"{title}: {case.description}"]
    if case.accepted:
        assert (status, err) == (0, "")
        return
    assert status in (1, 2), out
    _check_no_partial_files(folder, before)
    assert not re.search(r"Traceback|Error:|Errno", err), err
    assert len(err) < 600
    assert len(err.splitlines()) == 1 + ("could not be read" in err), err


def test_refused_resume_saves_no_diff_and_draws_no_curves(folder, monkeypatch, capsys):
    monkeypatch.setattr("fcn.runs.provenance.read_code", lambda: Code("c", b"changed since\n"))
    (folder / "run" / runs.CURVES).unlink()
    before = _state(folder)
    status, _, err = type_in(monkeypatch, capsys, "resume=run", "epochs=2", "allow=[epochs]", "data.root=missing")
    assert (status, "missing" in err) == (1, True)
    _check_no_partial_files(folder, before)
    assert not (folder / "run" / runs.CURVES).exists()


@contextlib.contextmanager
def time_limit(seconds: int):
    """Fail after this number of seconds, because a command that runs longer has accepted its input."""

    def fail(number, frame):
        pytest.fail(f"no error message after {seconds} s")

    signal.signal(signal.SIGALRM, fail)
    signal.alarm(seconds)
    yield
    signal.alarm(0)


def without_variable_parts(output: str, folder: Path) -> str:
    """Replace the folder of the test, times and scores."""
    output = re.sub(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", "<time>", output.replace(str(folder), "/home/me"))
    return re.sub(r"(?<=^loss )[\d.]+, train.*|\d+(?= bytes not processed)", "...", output)


def _state(folder: Path) -> dict[Path, bytes | None]:
    """Return the content of every file below a folder; None for folders and unreadable files."""
    state = {}
    for path in sorted(folder.rglob("*")):
        readable = path.is_file() and not path.is_symlink() and os.access(path, os.R_OK, effective_ids=True)
        state[path] = path.read_bytes() if readable else None
    return state


def _check_no_partial_files(folder: Path, before: dict) -> None:
    """Fail if a file has changed, or a new one is not part of a run directory with the status failed."""
    after = _state(folder)
    logged = (runs.LOG, runs.LOCK)  # a resumed run records its failure there
    changed = {path for path in before if after.get(path) != before[path] and path.name not in logged}
    assert not changed
    new = [path for path in after.keys() - before.keys() if path.is_file() and path.name != LOCK]
    run_dirs = {path.parent for path in new if path.name == runs.CONFIG}
    for path in new:
        assert path.suffix != ".tmp"
        whole = path.suffix == ".decoded" or path.name in (LEGEND, train.MULTIRUN)
        assert whole or any(path.is_relative_to(run) for run in run_dirs), path
    for run in run_dirs:
        assert json.loads((run / runs.SUMMARY).read_text())["status"] == "failed"

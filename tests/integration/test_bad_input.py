"""Whatever is wrong is answered by one line, as docs/troubleshooting.md has it, and leaves nothing half done behind.

    FCN_WRITE_ANSWERS=1 pytest -n 0 -m "" tests/integration/test_bad_input.py

writes the answers into the page instead; then read them.
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
from tests.commands import ROOT, load_command, type_in
from tests.matrix import checkpoints, configuration, data, prediction
from tests.matrix.case import OWN, Case, own_data

PAGE = ROOT / "docs" / "troubleshooting.md"
BEGIN = "## Every answer\n"
SECTIONS = {**configuration.SECTIONS, **data.SECTIONS, **checkpoints.SECTIONS, **prediction.SECTIONS}
MARKS = [[], *3 * [[pytest.mark.slow]], [pytest.mark.exhaustive]]
# One of every kind by default, four in CI, all before a release and wherever a message changes.
CASES = [
    pytest.param(title, case, id=f"{title}: {case.what}", marks=MARKS[min(number, 4)])
    for title, cases in SECTIONS.items()
    for number, case in enumerate(cases)
]
WRITES = os.environ.get("FCN_WRITE_ANSWERS") == "1"


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    """A run of one step on one's own data."""
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
    """Where commands are typed: it holds `run`."""
    shutil.copytree(trained, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runs, "PATIENCE", 0)
    return tmp_path


@pytest.fixture
def ordinary_user():
    """Root may read and write whatever it wants; the user of these tests may not."""
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
def answers():
    """Rows of the page by section, which are written there in the end if that is asked for."""
    rows: dict[str, list[str]] = {title: [] for title in SECTIONS}
    yield rows
    if WRITES:
        sections = [f"\n### {title}\n\n| case | answer | exit |\n|---|---|---|\n" for title in rows]
        tables = "".join(head + "\n".join([*found, ""]) for head, found in zip(sections, rows.values(), strict=True))
        PAGE.write_text(PAGE.read_text(encoding="utf-8").partition(BEGIN)[0] + BEGIN + tables, encoding="utf-8")


@pytest.mark.parametrize(("title", "case"), CASES)
def test_an_answer_of_one_line(title, case, folder, ordinary_user, monkeypatch, capsys, answers):
    if torch.cuda.is_available() and any("gpu" in argument for argument in case.arguments):
        pytest.skip("there are GPUs")
    held = case.given(folder)
    before = _state(folder)
    script = train if case.script == "train" else load_command(case.script)
    with in_time(20):
        status, out, err = type_in(monkeypatch, capsys, *case.arguments, script=script)
    del held
    row = _row(case, folder, out.splitlines()[-1] if case.accepted else err, status)
    answers[title].append(row)
    if not WRITES:
        assert row in PAGE.read_text(encoding="utf-8").splitlines(), f"not on the page:\n{row}"
    if case.accepted:
        assert (status, err) == (0, "")
        return
    assert status in (1, 2), out
    _check_nothing_half_written(folder, before)
    assert not re.search(r"Traceback|Error:|Errno", err), err
    assert len(err) < 600
    assert len(err.splitlines()) == 1 + ("could not be read" in err), err


@contextlib.contextmanager
def in_time(seconds: int):
    """An answer that takes longer is none: the command works."""

    def end(number, frame):
        pytest.fail(f"no answer after {seconds} s")

    signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    yield
    signal.alarm(0)


def _row(case: Case, folder: Path, said: str, status: int) -> str:
    said = re.sub(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", "<time>", said.replace(str(folder), "/home/me"))
    said = re.sub(r"(?<=^loss )[\d.]+, train.*|\d+(?= bytes not processed)", "...", said)
    lines = [line.replace("|", "\\|") for line in said.splitlines()]
    answer = "<br>".join(f"`` {line} ``" if "`" in line else f"`{line}`" for line in lines)
    return f"| {case.what} | {answer} | {status} |"


def _state(folder: Path) -> dict[Path, bytes | None]:
    """Every file and folder and, if it may be read, what is in it."""
    found = {}
    for path in sorted(folder.rglob("*")):
        readable = path.is_file() and not path.is_symlink() and os.access(path, os.R_OK, effective_ids=True)
        found[path] = path.read_bytes() if readable else None
    return found


def _check_nothing_half_written(folder: Path, before: dict) -> None:
    """What was there is as it was, and what is new is a run directory that says that it has failed."""
    after = _state(folder)
    logged = (runs.LOG, runs.SUMMARY)  # where a run that goes on notes that it failed
    changed = {path for path in before if after.get(path) != before[path] and path.name not in logged}
    assert not changed
    new = [path for path in after.keys() - before.keys() if path.is_file()]
    run_dirs = {path.parent for path in new if path.name == runs.CONFIG}
    for path in new:
        assert path.suffix != ".tmp"
        whole = path.suffix == ".decoded" or path.name in (LEGEND, train.MULTIRUN)
        assert whole or any(path.is_relative_to(run) for run in run_dirs), path
    for run in run_dirs:
        assert json.loads((run / runs.SUMMARY).read_text())["status"] == "failed"

"""Commands report an exception that is not invalid input as a bug, with its type and place."""

import re

import numpy as np
import pytest

from fcn import runs
from fcn.training import train as training
from tests.commands import TINY, load_command, type_in


def reshape(*_, **__):
    np.zeros(3).reshape(2, 2)


BUG = re.escape("error: ValueError: cannot reshape array of size 3 into shape (2,2)")


def test_bug_in_a_run_names_the_log_with_its_traceback(monkeypatch, capsys, tmp_path, shapes_root):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(training, "_fit", reshape)
    status, _, err = type_in(monkeypatch, capsys, *TINY, f"data.root={shapes_root}", "trainer=cpu", "name=bug")
    (run,) = (tmp_path / "outputs" / "bug").iterdir()
    log = run.relative_to(tmp_path) / runs.LOG
    message = (
        rf"{BUG} \(fcn/training/train\.py:\d+\); this is a bug: see the traceback in {log}, or run again with .*\n"
    )
    assert status == 1
    assert re.fullmatch(message, err), err
    assert "Traceback" in (tmp_path / log).read_text()


@pytest.mark.parametrize(
    ("name", "replaced", "arguments"),
    [("evaluate", "evaluate_run", ["run=x"]), ("predict", "predict_files", []), ("compare", "run_comparison", ["x"])],
)
def test_bug_in_a_command_names_its_place(name, replaced, arguments, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    command = load_command(name)
    monkeypatch.setattr(command, replaced, reshape)
    status, _, err = type_in(monkeypatch, capsys, *arguments, script=command)
    assert status == 1
    assert re.fullmatch(rf"{BUG} \(fcn/cli/\w+\.py:\d+\); this is a bug: for the traceback, run again .*\n", err), err

"""Entry of commands: the environment of a command that a notebook cell runs."""

import os

import pytest

from fcn.cli import compare, train
from fcn.cli.argparse_entry import exceptions_as_error_lines


@pytest.fixture
def cell(monkeypatch):
    """Environment of a process that was started in a notebook cell."""
    monkeypatch.setenv("JPY_PARENT_PID", "1")
    monkeypatch.setenv("TTY_COMPATIBLE", "1")  # restored afterwards
    monkeypatch.delenv("TTY_COMPATIBLE")


@pytest.mark.parametrize(
    ("main", "arguments"), [(compare.main, ["compare", "missing"]), (train.main, ["train", "lr=high"])]
)
def test_command_in_a_notebook_cell_moves_no_cursor(cell, monkeypatch, main, arguments):
    monkeypatch.setattr("sys.argv", arguments)
    with pytest.raises(SystemExit):
        main()
    assert os.environ["TTY_COMPATIBLE"] == "0"
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    with pytest.raises(SystemExit):
        main()
    assert os.environ["TTY_COMPATIBLE"] == "1"


def test_error_lines_do_not_change_the_environment(cell):
    before = dict(os.environ)
    with pytest.raises(SystemExit, match="error: "), exceptions_as_error_lines():
        raise ValueError
    assert os.environ == before

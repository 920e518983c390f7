"""Supported versions of Python."""

import sys

import pytest

from fcn.cli import hydra_entry
from tests.commands import load_command, type_in


@pytest.mark.parametrize("script", ["train", "evaluate", "prepare_voc"])
def test_newer_python_is_refused_before_hydra_fails(monkeypatch, capsys, script):
    monkeypatch.setattr(hydra_entry, "NEWEST_PYTHON", (3, 9))
    version = ".".join(map(str, sys.version_info[:2]))
    status, out, err = type_in(monkeypatch, capsys, "--help", script=load_command(script))
    assert (status, out) == (1, "")
    assert err == f"error: Python (={version}) must be at most 3.9 for Hydra 1.3; use Python 3.9\n"

"""Texts name commands as the person has them."""

import pytest

from fcn import commands
from tests.commands import ROOT

TEXTS = [
    ("more by python scripts/compare.py outputs", "more by fcn-compare outputs"),
    ("use `python scripts/prepare_voc.py download=true`", "use `fcn-prepare-voc download=true`"),
    ("bare `python train.py` trains", "bare `fcn-train` trains"),
    ("Groups and keys of train.py are settings", "Groups and keys of fcn-train are settings"),
    ("(search is for scripts/tune.py, study is a sweep)", "(search is for fcn-tune, study is a sweep)"),
    ('use pip install -e ".[tune]"', 'use pip install "fcn[tune]"'),
    ("input (=scripts/train.py) and /a/train.py must exist", "input (=scripts/train.py) and /a/train.py must exist"),
]


@pytest.mark.parametrize(("text", "translated"), TEXTS)
def test_the_words_of_a_console_command(text, translated, monkeypatch):
    assert commands.as_typed(text) == text
    monkeypatch.setattr("sys.argv", ["/usr/bin/fcn-train"])
    assert commands.as_typed(text) == translated


def test_every_command_has_its_words():
    scripts = {path.stem for path in (ROOT / "scripts").glob("*.py")} - {"__init__"}
    assert set(commands.NAMES) == scripts | {"train"}

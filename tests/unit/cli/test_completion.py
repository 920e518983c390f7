"""Tab completion of keys, options, values and paths, also in a real bash, for commands of this project only."""

import os
import subprocess
import sys

import pytest

from fcn.cli import completion
from fcn.config import Config, schema_fields
from fcn.config.composition import CONF
from tests.commands import ROOT, load_command, type_in

EXPERIMENTS = sorted(path.stem for path in (ROOT / "conf" / "experiment").glob("*.yaml"))


def complete(line: str, monkeypatch, *, config_name: str = "config", schema: type = Config) -> list[str]:
    monkeypatch.setenv("COMP_LINE", line)
    return completion.answer("query=bash", config_name=config_name, schema=schema).split("\n")


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("model.in", ["model.init=", "model.init_from="]),
        ("model.init=", ["model.init=bilinear", "model.init=xavier"]),
        ("model/init=x", ["model/init=xavier"]),
        ("model", ["model.", "model/", "model="]),
        ("experiment=", [f"experiment={name}" for name in EXPERIMENTS]),
        ("model.init=bilinear,", ["model.init=bilinear,bilinear", "model.init=bilinear,xavier"]),
        ("compile=", ["compile=false", "compile=true"]),
        ("+experiment=d", ["+experiment=d2l"]),
        ("~exp", ["~experiment="]),
        ("hydra/launcher=slurm_", ["hydra/launcher=slurm_local"]),
        ("trainer.accumulate=", ["trainer.accumulate=auto"]),
        ("lr=", [""]),  # a number
        ("no_such_key=", [""]),
        ("--cfg", [""]),
    ],
)
def test_completions_of_a_word(word, expected, monkeypatch):
    assert complete(f"python train.py lr=1 {word}", monkeypatch) == expected


def test_completions_of_an_empty_word_exist(monkeypatch):
    offered = complete("python train.py seed=0 ", monkeypatch)
    assert {"lr=", "data.", "data=", "experiment=", "study="} <= set(offered)
    assert "search=" not in offered  # of scripts/tune.py
    keys = [f"{key}=" for key in schema_fields(Config)]
    groups = ["callbacks=", "data=", "logger=", "schedule=", "transforms="]
    known = [word for word in offered if (CONF / word[:-1]).is_dir() or any(key.startswith(word) for key in keys)]
    assert {*offered} - {*known} == {*groups}


@pytest.mark.parametrize(
    ("name", "word", "expected"),
    [
        ("tune", "search=d", "search=d2l search=default"),
        ("tune", "pruner=n", "pruner=none"),
        ("evaluate", "da", "data. data="),
        ("predict", "competition=", "competition=comp5 competition=comp6"),
        ("export", "fo", "format="),
    ],
)
def test_completions_of_scripts(name, word, expected, monkeypatch):
    schema = getattr(load_command(name), f"{name.capitalize()}Config")
    replies = complete(f"python scripts/{name}.py {word}", monkeypatch, config_name=name, schema=schema)
    assert replies == expected.split()


def test_completions_of_paths_and_user_presets(tmp_path, monkeypatch):
    (tmp_path / "outputs" / "a run").mkdir(parents=True)
    (tmp_path / "outputs" / ".hidden").mkdir()
    (tmp_path / "outputs.txt").write_text("")
    (tmp_path / "presets" / "experiment").mkdir(parents=True)
    (tmp_path / "presets" / "experiment" / "mine.yaml").write_text("")
    monkeypatch.chdir(tmp_path)
    assert complete("python train.py resume=out", monkeypatch) == ["resume=outputs/", "resume=outputs.txt"]
    assert complete("python train.py resume=outputs/", monkeypatch) == ["resume=outputs/a run/"]
    assert complete("python train.py resume=nowhere/", monkeypatch) == [""]
    for option in ("--config-dir presets", "--config-dir=presets", "-cd presets"):
        assert complete(f"python train.py {option} experiment=m", monkeypatch) == ["experiment=mine"]


def test_completion_flag_is_handled_before_hydra(monkeypatch, capsys):
    monkeypatch.setenv("COMP_LINE", "python train.py model.init=b")
    assert type_in(monkeypatch, capsys, "-sc", "query=bash") == (0, "model.init=bilinear\n", "")
    assert type_in(monkeypatch, capsys, "-sc", "install=bash") == (0, f"{completion.INSTALL}\n", "")
    assert type_in(monkeypatch, capsys, "-sc", "uninstall=bash") == (0, f"{completion.UNINSTALL}\n", "")


BASH = r"""
eval "$("$PYTHON" train.py -sc install=bash)"
tab() {  # as readline calls it: words broken at blanks and "="
    COMP_LINE=$1 COMP_POINT=${#1}
    read -ra COMP_WORDS <<< "${1//=/ = }"
    [[ $1 == *" " ]] && COMP_WORDS+=("")
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
    _fcn_complete "${COMP_WORDS[0]}"
    echo "${COMPREPLY[*]}"
}
tab "$PYTHON train.py -m model.init=bilinear,"
tab "$PYTHON $OTHER lr"
fcn-train() { "$PYTHON" train.py "$@"; }
tab "fcn-train model/init=x"
"""


def test_bash_completes_and_runs_no_other_scripts(tmp_path):
    other = tmp_path / "other.py"
    other.write_text(f"open({str(tmp_path / 'ran')!r}, 'w')  # @hydra.main\n")
    environment = {**os.environ, "PYTHON": sys.executable, "OTHER": str(other), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", BASH], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == ["bilinear,bilinear bilinear,xavier", "", "xavier"], done.stderr
    assert not (tmp_path / "ran").exists()

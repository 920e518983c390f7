"""Provenance of a run, read from small repositories."""

import getpass
import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from fcn.runs import provenance
from fcn.runs.provenance import Code, save_diff

read_code = provenance.read_code.__wrapped__  # without its cache, since the tests change the files

SETTINGS = ("user.name=x", "user.email=x@example.org", "commit.gpgsign=false", "core.autocrlf=false")


def git(folder: Path, *arguments: str) -> str:
    options = [word for setting in SETTINGS for word in ("-c", setting)]
    done = subprocess.run(["git", *options, *arguments], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def contents(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file() and ".git" not in path.parts]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def write_package(folder: Path) -> Path:
    (folder / "fcn").mkdir(parents=True)
    (folder / "fcn" / "task.py").write_text("def step():\n    return 1\n")
    (folder / "fcn" / "old.py").write_text("gone = True\n")
    (folder / "conf").mkdir()
    (folder / "conf" / "mean.bin").write_bytes(bytes(range(256)))
    (folder / "README.md").write_text("text\n")
    (folder / ".gitignore").write_text("*.pyc\n")
    return folder


@pytest.fixture
def checkout(tmp_path) -> Path:
    """A repository with one commit."""
    folder = write_package(tmp_path / "checkout")
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "first")
    return folder


def change(folder: Path) -> None:
    """Make changes of every kind."""
    (folder / "fcn" / "task.py").write_text("def step():\n    return 2\n")
    (folder / "fcn" / "old.py").unlink()
    (folder / "conf" / "mean.bin").write_bytes(bytes(range(255, -1, -1)))
    (folder / "scripts").mkdir()
    (folder / "scripts" / "näw one.py").write_text("print('new')\n")
    (folder / "scripts" / "without newline.py").write_text("x = 1")
    (folder / "staged.py").write_text("staged = True\n")
    git(folder, "add", "staged.py")


def test_clean_checkout_has_a_commit_and_no_diff(checkout):
    assert read_code(checkout) == Code(git(checkout, "rev-parse", "HEAD").strip(), b"")
    assert read_code(checkout).sha256 is None


def test_commit_and_diff_restore_the_files(checkout, tmp_path):
    change(checkout)
    code = read_code(checkout)
    again = tmp_path / "again"
    git(tmp_path, "clone", "--quiet", str(checkout), str(again))
    git(again, "checkout", "--quiet", code.commit)
    git(again, "apply", str(save_diff(tmp_path, code)))
    assert contents(again) == contents(checkout)
    assert code.sha256 == hashlib.sha256((tmp_path / "code.diff").read_bytes()).hexdigest()


def test_other_untracked_files_are_not_in_the_diff(checkout):
    (checkout / "notes.txt").write_text("untracked, beside the code")
    (checkout / "fcn" / "task.pyc").write_text("ignored")
    assert read_code(checkout).diff == b""


def test_diff_is_independent_of_git_settings(checkout):
    change(checkout)
    plain = read_code(checkout)
    for name, value in {"noprefix": "true", "external": "false", "mnemonicPrefix": "true"}.items():
        git(checkout, "config", f"diff.{name}", value)
    git(checkout, "config", "color.ui", "always")
    assert read_code(checkout) == plain


def test_no_commit_without_repository_commit_or_own_files(checkout, tmp_path):
    folder = write_package(tmp_path / "installed")
    assert read_code(folder) == Code(None, b"")
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    assert read_code(folder) == Code(None, b"")
    inside_another_repository = write_package(checkout / "venv" / "site-packages")
    assert read_code(inside_another_repository) == Code(None, b"")


def test_checkout_inside_a_larger_repository(tmp_path):
    inner = write_package(tmp_path / "all" / "fcn-project")
    (tmp_path / "all" / "other.txt").write_text("1")
    git(tmp_path / "all", "init", "--quiet")
    git(tmp_path / "all", "add", "--all")
    git(tmp_path / "all", "commit", "--quiet", "--message", "first")
    (tmp_path / "all" / "other.txt").write_text("2")
    assert read_code(inner) == Code(git(inner, "rev-parse", "HEAD").strip(), b"")
    change(inner)
    diff = save_diff(tmp_path, read_code(inner))
    shutil.copytree(inner, tmp_path / "changed")
    git(inner, "stash", "--quiet", "--include-untracked")
    git(inner, "apply", "--directory=fcn-project", str(diff))
    assert contents(inner) == contents(tmp_path / "changed")


def test_no_commit_without_git(checkout, monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert read_code(checkout) == Code(None, b"")


def test_run_directory_keeps_all_diffs(tmp_path):
    first, second = Code("c", b"first\n"), Code("c", b"second\n")
    assert save_diff(tmp_path, Code("c", b"")) is None
    assert list(tmp_path.iterdir()) == []
    kept = [save_diff(tmp_path, code) for code in (first, second, first)]
    assert kept == [tmp_path / name for name in ("code.diff", "code_2.diff", "code.diff")]
    assert contents(tmp_path) == {"code.diff": b"first\n", "code_2.diff": b"second\n"}


def test_provenance_describes_code_versions_and_machine():
    record = provenance.provenance()
    assert record["git_dirty"] == (record["git_diff_sha256"] is not None)
    assert set(provenance.PACKAGES) < set(record["versions"])
    assert record["hardware"]["threads"] == torch.get_num_threads()
    assert record["hardware"]["cores"] == os.cpu_count()
    assert ("gpus" in record["hardware"]) == torch.cuda.is_available()
    assert getpass.getuser() not in json.dumps({**record["versions"], **record["hardware"]}).split('"')
    json.dumps(record, allow_nan=False)

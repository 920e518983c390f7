"""The run that resume, rerun and run name: a checkpoint in it, a folder above it, or the latest."""

import os

import pytest

from fcn import runs
from fcn.config import ConfigError
from fcn.runs.run_lookup import find_run


@pytest.fixture
def outputs(tmp_path, monkeypatch):
    """Runs and a sweep in the order of their creation; the newest run is a trial of a search."""
    monkeypatch.chdir(tmp_path)
    files = [
        "outputs/a/1/config.yaml", "outputs/a/2/config.yaml", "outputs/b/sweep/sweep.json",
        "outputs/b/sweep/0/config.yaml", "outputs/c/tune/study.db", "outputs/c/tune/0/config.yaml",
    ]  # fmt: skip
    for second, name in enumerate(files):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
        os.utime(path, (second, second))
    (tmp_path / "outputs/a/1/checkpoints").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("given", "run"),
    [
        ("outputs/a/1", "outputs/a/1"),
        ("outputs/a/1/checkpoints/last.ckpt", "outputs/a/1"),
        ("outputs/a", "outputs/a/2"),
        ("outputs/b", "outputs/b/sweep"),
        ("outputs/b/sweep/0", "outputs/b/sweep/0"),
        ("latest", "outputs/b/sweep"),
        ("outputs/c", "outputs/c"),
        ("nowhere", "nowhere"),
        ("other.ckpt", "other.ckpt"),
        ("/other.ckpt", "/other.ckpt"),
    ],
)
def test_run_to_resume(outputs, given, run):
    assert find_run("resume", given, sweeps=True) == run


def test_absolute_path_of_a_checkpoint(outputs):
    assert find_run("resume", str(outputs / "outputs/a/1/checkpoints/previous.ckpt")) == str(outputs / "outputs/a/1")


@pytest.mark.parametrize("given", ["latest", "outputs/b", "outputs/b/sweep"])
def test_sweep_is_an_error_where_one_run_is_needed(outputs, given):
    with pytest.raises(
        ConfigError, match="must be one run, but outputs/b/sweep is a sweep; use the folder of one of its jobs"
    ):
        find_run("rerun", given)


def test_best_checkpoint_is_an_error_because_a_run_continues_from_its_last(outputs):
    with pytest.raises(ConfigError, match="must be a run, which continues from its last checkpoint"):
        find_run("resume", f"outputs/a/1/{runs.BEST}", sweeps=True)


def test_latest_without_any_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"resume \(=latest\) must have a run below outputs/, but there is none"):
        find_run("resume", "latest")


def test_folder_named_latest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "latest").mkdir()
    (tmp_path / "latest/config.yaml").write_text("{}")
    assert find_run("run", "latest") == "latest"

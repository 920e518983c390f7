"""A search by two commands at once: every trial is executed once, and the results are complete."""

import csv
import uuid
from pathlib import Path

import optuna
import pytest

from fcn import runs
from tests.commands import ROOT, TINY, Command, wait_for

TRIALS = 4


def options(command: Command) -> tuple[str, ...]:
    keys = ("trainer=cpu", "name=s", "search=init", f"trials={TRIALS}", "pruner=none")
    return (*TINY, f"data.root={command.data}", *keys)


def trials_of(output: str) -> set[str]:
    """Return the run directories of the trials that a command has finished, from its standard output."""
    return {line.split()[1].rstrip(",") for line in output.splitlines() if line.startswith("finished")}


def check_results(folder: Path, storage: optuna.storages.BaseStorage) -> None:
    study = optuna.load_study(study_name="s/tune-init", storage=storage)
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * TRIALS
    run_dirs = sorted(path.name for path in folder.iterdir() if path.is_dir())
    assert sorted(trial.user_attrs["run"] for trial in study.trials) == run_dirs
    assert [name.partition("_")[0] for name in run_dirs] == [str(number) for number in range(TRIALS)]
    for trial in study.trials:
        scores = [float(row["val/mean_iou"]) for row in runs.read_metrics(folder / trial.user_attrs["run"])]
        assert trial.intermediate_values == dict(enumerate(scores, start=1))
        assert (trial.value, len(scores)) == (max(scores), 2)
    with open(folder / "trials.csv", newline="") as file:
        rows = [(row["state"], row["run"], float(row["val/mean_iou"])) for row in csv.DictReader(file)]
    assert rows == [("complete", trial.user_attrs["run"], trial.value) for trial in study.trials]
    assert {"history.png", "importance.png"} <= {path.name for path in folder.iterdir()}


def machine(folder: Path, name: str) -> dict[str, str]:
    """Return an environment in which Python sees a machine of this name, whose file systems have no locks."""
    (folder / name).mkdir()
    (folder / name / "sitecustomize.py").write_text(
        f"""
import errno, fcntl, os
kind, _, *rest = os.uname()
os.uname = lambda: os.uname_result((kind, {name!r}, *rest))
def flock(descriptor, operation):
    raise OSError(errno.ENOSYS, "no locks")
fcntl.flock = flock
"""
    )
    return {"PYTHONPATH": f"{folder / name}:{ROOT}"}


@pytest.mark.exhaustive
def test_two_machines_share_a_search_by_its_folder(fresh_command, tmp_path):
    """The file system has no locks of the system, so that only files exclude the other machine."""
    keys = {"script": "scripts/tune.py"}
    arguments = (*options(fresh_command), "storage=journal")
    folder = fresh_command.folder / "outputs" / "s" / "tune-init"
    processes = [fresh_command.start(*arguments, **keys, **machine(tmp_path, name)) for name in ("node1", "node2")]
    outputs = [process.communicate(timeout=500) for process in processes]
    assert [(process.returncode, err) for process, (_, err) in zip(processes, outputs, strict=True)] == [(0, "")] * 2
    first, second = (trials_of(out) for out, _ in outputs)
    assert first
    assert second
    assert len(first | second) == len(first) + len(second) == TRIALS
    path = str(folder / "study.journal")
    check_results(folder, optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(path)))


@pytest.mark.exhaustive
def test_trials_of_a_killed_command_are_resumed_by_the_other(command, tmp_path):
    """The study is in a database, whose password is in no file and no output."""
    password = uuid.uuid4().hex
    url = f"sqlite:///file:{tmp_path}/shared.db?uri=true&password={password}"
    keys = {"script": "scripts/tune.py", "STUDY_URL": url}
    arguments = (*options(command), "storage=${oc.env:STUDY_URL}")
    folder = command.folder / "outputs" / "s" / "tune-init"
    killed, other = (command.start(*arguments, **keys) for _ in range(2))
    try:
        wait_for(lambda: len(list(folder.glob("*/checkpoints/last.ckpt"))) > 1, process=killed, seconds=500)
        killed.kill()
        out, err = other.communicate(timeout=500)
    finally:
        killed.kill()
        other.kill()
    assert (other.returncode, err) == (0, "")
    assert trials_of(out)
    assert trials_of(out).isdisjoint(trials_of(killed.communicate()[0]))
    check_results(folder, optuna.storages.RDBStorage(url))
    assert password not in out + err
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert [path for path in files if password.encode() in path.read_bytes()] == []

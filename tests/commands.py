"""Commands of the checkout, run in another process or in this one."""

import importlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

import fcn
from fcn.cli import train as train_command
from tests.forked import Forked

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"

# A run of seconds: two epochs of two steps on small crops.
TINY_RUN = (
    "data.crop_size=[64,64]",
    "batch_size=8",
    "epochs=2",
    "trainer.sample_images=2",
    "trainer.log_every=1",
)
"""Overrides of a run that takes a few seconds on any dataset."""

TINY_DATA = ("data.shapes.num_train=16", "data.shapes.num_val=5")
"""Overrides of the built-in synthetic dataset."""

TINY = (*TINY_DATA, *TINY_RUN, "backbone=squeezenet1_0")
"""Overrides of a run of a few seconds on the built-in synthetic dataset. The backbone has no batch norm."""


def only_entry(folder: Path) -> Path:
    """Return the only file or folder in a folder."""
    (entry,) = folder.iterdir()
    return entry


def error_message(err: str) -> str:
    """Return the message of a command that failed; standard error must be the line `error: MESSAGE`."""
    (line,) = err.splitlines()
    assert line.startswith("error: "), line
    return line.removeprefix("error: ")


def train_in_process(run: Path, data: Path, *overrides: str) -> Path:
    """Execute a tiny run on the CPU by the Python API and return its directory."""
    fcn.train(fcn.compose(*TINY, f"data.root={data}", "trainer=cpu", *overrides), run)
    return run


@dataclass
class Command:
    """Runs commands of the checkout in a folder.

    Attributes:
        folder: working directory of the commands.
        data: folder of the built-in synthetic dataset, shared by all tests.
        fresh: whether to start a new interpreter, which imports all libraries; otherwise a fork, see tests/forked.py.
    """

    folder: Path
    data: Path
    fresh: bool = False

    def start(self, *arguments: str, script: str = "train.py", **environment: str) -> subprocess.Popen | Forked:
        # One thread: two tests run at once, and results depend on the number of threads.
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment}
        line = [sys.executable, str(ROOT / script), *arguments]
        if not self.fresh:
            return Forked(line, cwd=self.folder, env=env)
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        return subprocess.Popen(line, cwd=self.folder, env=env, text=True, **pipes)

    def __call__(self, *arguments: str, **options: str) -> subprocess.CompletedProcess:
        process = self.start(*arguments, **options)
        out, err = process.communicate(timeout=280)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def train(self, *overrides: str, name: str) -> Path:
        """Execute a tiny run and return its directory."""
        done = self(*TINY, f"data.root={self.data}", f"name={name}", *overrides)
        assert done.returncode == 0, done.stderr + done.stdout
        return self.run_of(name)

    def run_of(self, name: str) -> Path:
        """Return the only run directory below outputs/<name>."""
        return only_entry(self.folder / "outputs" / name)


def wait_for(condition, *, seconds: float = 120, process: subprocess.Popen | Forked | None = None) -> None:
    """Wait until `condition()` holds; fail if it does not in time, or if `process` ends before."""
    end = time.monotonic() + seconds
    while not condition():
        if process is not None and process.poll() is not None:
            out, err = process.communicate()
            pytest.fail(f"the command ended with status {process.returncode}: {out}{err}")
        if time.monotonic() > end:
            pytest.fail(f"the condition did not hold within {seconds} s")
        time.sleep(0.02)


def interrupt(process: subprocess.Popen | Forked, number: int = signal.SIGINT) -> subprocess.CompletedProcess:
    """Send a signal and wait for the end of the process."""
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def processes_of(module: str, part: str) -> list[int]:
    """Return the ids of processes of `python -m MODULE` with `part` in one of their arguments."""
    ids = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                arguments = (entry / "cmdline").read_text().split("\0")
            except OSError:
                continue
            if module in arguments and any(part in argument for argument in arguments):
                ids.append(int(entry.name))
    return ids


def workers_of(run: Path) -> list[int]:
    """Return the ids of the processes that execute a run, or the runs of a sweep."""
    return processes_of("fcn.worker", run.name)


def load_command(name: str) -> ModuleType:
    """Return the module of the command scripts/<name>.py."""
    outside = {"benchmark": "benchmarks.command", "compare_losses": "scripts.compare_losses"}
    return importlib.import_module(outside.get(name, f"fcn.cli.{name}"))


def type_in(monkeypatch, capsys, *arguments: str, script: ModuleType = train_command) -> tuple[int, str, str]:
    """Run `python SCRIPT ARGUMENTS` in this process; its exit status, standard output and standard error."""
    monkeypatch.setattr("sys.argv", [f"{script.__name__.rpartition('.')[2]}.py", *arguments])
    try:
        script.main()
        status: object = 0
    except SystemExit as end:
        status = end.code
    out, err = capsys.readouterr()
    if isinstance(status, str):  # the interpreter prints it and exits with status 1
        return 1, out, f"{err}{status}\n"
    return int(status or 0), out, err

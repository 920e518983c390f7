"""Commands of the checkout, run in processes as a user runs them."""

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

from fcn.cli import train as launch
from tests.forked import Forked

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"

# A run of seconds: two epochs of two steps on small crops.
TINY = (
    "data.shapes.num_train=16",
    "data.shapes.num_val=5",
    "data.crop_size=[64,64]",
    "batch_size=8",
    "epochs=2",
    "trainer.sample_images=2",
    "trainer.log_every=1",
)


@dataclass
class Command:
    """A command of the checkout, run in a folder of its own; the embedded set is shared by all tests.

    Attributes:
        fresh: whether it is an interpreter of its own, which imports everything anew, or forked; see tests/forked.py.
    """

    folder: Path
    data: Path
    fresh: bool = False

    def start(self, *arguments: str, script: str = "train.py", **environment: str) -> subprocess.Popen | Forked:
        # One thread: two tests run side by side, and the bits of a run depend on the number of threads.
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
        """Run directory of a tiny run that must succeed."""
        done = self(*TINY, f"data.root={self.data}", f"name={name}", *overrides)
        assert done.returncode == 0, done.stderr + done.stdout
        return self.run_of(name)

    def run_of(self, name: str) -> Path:
        """The one run directory below outputs/<name>."""
        (found,) = (self.folder / "outputs" / name).iterdir()
        return found


def wait_for(condition, *, seconds: float = 120, process: subprocess.Popen | Forked | None = None) -> None:
    """Wait until `condition()` holds; fail if it does not in time, or if `process` ends before."""
    end = time.monotonic() + seconds
    while not condition():
        if process is not None and process.poll() is not None:
            out, err = process.communicate()
            pytest.fail(f"the command ended with {process.returncode}: {out}{err}")
        if time.monotonic() > end:
            pytest.fail("waited in vain")
        time.sleep(0.02)


def interrupt(process: subprocess.Popen | Forked, number: int = signal.SIGINT) -> subprocess.CompletedProcess:
    process.send_signal(number)
    out, err = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def processes_of(module: str, part: str) -> list[int]:
    """Processes that were started by `python -m MODULE`, with `part` in one of their arguments."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                arguments = (entry / "cmdline").read_text().split("\0")
            except OSError:
                continue
            if module in arguments and any(part in argument for argument in arguments):
                found.append(int(entry.name))
    return found


def workers_of(run: Path) -> list[int]:
    """Processes that execute the run, or runs in this folder of a sweep."""
    return processes_of("fcn.worker", run.name)


def load_command(name: str) -> ModuleType:
    """Module of the command that scripts/<name>.py runs."""
    return importlib.import_module("benchmarks.command" if name == "benchmark" else f"fcn.cli.{name}")


def type_in(monkeypatch, capsys, *arguments: str, script: ModuleType = launch) -> tuple[int, str, str]:
    """Exit status, standard output and standard error of `python SCRIPT ARGUMENTS`, in this process for speed."""
    monkeypatch.setattr("sys.argv", [f"{script.__name__.rpartition('.')[2]}.py", *arguments])
    try:
        script.main()
        status: object = 0
    except SystemExit as end:
        status = end.code
    out, err = capsys.readouterr()
    if isinstance(status, str):  # what the interpreter does with it
        return 1, out, f"{err}{status}\n"
    return int(status or 0), out, err

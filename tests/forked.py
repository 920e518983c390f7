"""Commands in forked processes: importing torch and Lightning takes longer than a tiny run.

A server process imports the libraries once and is forked for every command. Nothing of `fcn` is imported before the
fork, so that environment, working directory and arguments are read as in a process that a user starts. Tests of
the start itself use a new interpreter.
"""

import atexit
import gc
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

LIBRARIES = ["torch", "torch._dynamo", "torchvision", "pytorch_lightning", "matplotlib.figure", "hydra", "rich.table"]


class Forked:
    """The interface of subprocess.Popen that tests use, for `python SCRIPT ARGUMENTS`; output is text."""

    def __init__(self, args: list[str], *, cwd: Path, env: dict[str, str]) -> None:
        self.args = args
        self._output = [tempfile.TemporaryFile("w+") for _ in range(2)]  # noqa: SIM115 (read by communicate)
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(LIBRARIES)
        names = [f"/proc/{os.getpid()}/fd/{file.fileno()}" for file in self._output]
        self._process = context.Process(target=_run, args=(args[1:], str(cwd), env, names))
        self._process.start()
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        self.wait(timeout)
        for file in self._output:
            file.seek(0)
        return self._output[0].read(), self._output[1].read()


def _run(args: list[str], cwd: str, env: dict[str, str], output: list[str]) -> None:
    """Turn this process into `python ARGS`."""
    for number, name in enumerate(output, start=1):
        file = os.open(name, os.O_WRONLY | os.O_APPEND)
        os.dup2(file, number)
        os.close(file)
    gc.freeze()  # the imported libraries
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    sys.argv = args
    sys.path[:0] = [str(Path(args[0]).parent), *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    status = 1
    try:
        runpy.run_path(args[0], run_name="__main__")
        status = 0
    except SystemExit as end:
        if isinstance(end.code, str):  # the interpreter prints it and exits with status 1
            print(end.code, file=sys.stderr)
        else:
            status = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)

"""Entry of commands with an argument parser; exceptions as one line on standard error. Imports no Hydra."""

import argparse
import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from typing import NoReturn

from fcn import errors


class Parser(argparse.ArgumentParser):
    """Parser that reports an invalid option in one line instead of printing its usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; --help lists the options\n")


@contextlib.contextmanager
def exceptions_as_error_lines(explain: Callable[[Exception], str] = errors.explain) -> Iterator[None]:
    """Exit with one line after an exception; with HYDRA_FULL_ERROR=1 in the environment the exception is raised.

    Args:
        explain: returns the line for an exception.
    """
    try:
        yield
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
    except Exception as error:
        if errors.WANTS_TRACEBACK:
            raise
        raise SystemExit(f"error: {explain(error)}") from None


def use_no_cursor_in_notebooks() -> None:
    """Let rich print lines instead of bars that move the cursor, if this command was run by `!` in a notebook cell.

    The cell gives the command a terminal, but its output displays every state of a bar below the other. The variable of
    the environment that is set also applies to processes that the command starts.
    """
    if "JPY_PARENT_PID" in os.environ:  # jupyter_client sets it for kernels, which pass it on
        os.environ.setdefault("TTY_COMPATIBLE", "0")

"""The end of a command that has an argument parser: one line for what went wrong. Imports nothing slow."""

import argparse
from collections.abc import Callable
from typing import NoReturn, TypeVar

from fcn import errors

Arguments = TypeVar("Arguments")


class Parser(argparse.ArgumentParser):
    """A parser whose answer to a wrong option is one line, not the usage of all."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; --help lists the options\n")


def run_script(run: Callable[[Arguments], None], arguments: Arguments) -> None:
    """Call `run`; an exception ends the program with one line on standard error, or a traceback if asked for."""
    try:
        run(arguments)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:
        if errors.WANTS_TRACEBACK:
            raise
        raise SystemExit(f"error: {errors.explain(error)}") from None

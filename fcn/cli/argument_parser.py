"""Argument parser of commands without Hydra, with one-line error messages."""

import argparse
from collections.abc import Callable
from typing import NoReturn, TypeVar

from fcn import errors

Arguments = TypeVar("Arguments")


class Parser(argparse.ArgumentParser):
    """Parser that reports an invalid option in one line instead of printing its usage."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message}; --help lists the options\n")


def run_script(run: Callable[[Arguments], None], arguments: Arguments) -> None:
    """Call `run`; after an exception, exit with one line on standard error, or a traceback with HYDRA_FULL_ERROR=1."""
    try:
        run(arguments)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:
        if errors.WANTS_TRACEBACK:
            raise
        raise SystemExit(f"error: {errors.explain(error)}") from None

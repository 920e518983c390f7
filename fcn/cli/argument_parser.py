"""The end of a command that has an argument parser: one line for what went wrong. Imports nothing slow."""

import argparse
from collections.abc import Callable
from typing import NoReturn, TypeVar

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
        from fcn import errors
        from fcn.cli.hydra_entry import fail  # brings Hydra, for which --help need not wait

        if errors.WANTS_TRACEBACK:
            raise
        fail(error)

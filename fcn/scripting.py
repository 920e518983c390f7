"""The end of a command that has an argument parser: one line for what went wrong. Imports nothing slow."""

from collections.abc import Callable
from typing import TypeVar

Arguments = TypeVar("Arguments")


def run_script(run: Callable[[Arguments], None], arguments: Arguments) -> None:
    """Call `run`; an exception ends the program with one line on standard error, or a traceback if asked for."""
    try:
        run(arguments)
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:
        from fcn.cli import WANTS_TRACEBACK, fail  # brings Hydra, for which --help need not wait

        if WANTS_TRACEBACK:
            raise
        fail(error)

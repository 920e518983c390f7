"""The places where commands depend on internals of Hydra, tested with Hydra 1.3.8.

Everything else goes through Hydra's documented interface.
"""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Iterator, Sequence

from hydra._internal.utils import get_args_parser

from fcn.cli.argparse_entry import Parser

FULL_ERROR = "HYDRA_FULL_ERROR"


def parse_arguments(arguments: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Parse a command line as Hydra does, and return it with all flags before the overrides.

    Hydra's own parser rejects an override after a flag that follows another override, and prints its whole usage for
    any error. Hydra offers neither its parser nor its arguments, so `get_args_parser` is a private name.

    Raises:
        SystemExit: with status 2, after one line on standard error, for an unknown or incomplete flag.
    """
    parser = Parser(parents=[get_args_parser()], add_help=False)
    parsed, unknown = parser.parse_known_intermixed_args(list(arguments))
    if unknown:
        flag = unknown[0].partition("=")[0]
        parser.error(f"unknown flag {flag}; keys have no dashes: {flag.lstrip('-').replace('-', '_')}=VALUE")
    return parsed, [argument for argument in arguments if argument not in parsed.overrides] + parsed.overrides


@contextlib.contextmanager
def raising_exceptions() -> Iterator[None]:
    """Have Hydra raise exceptions of composition and of sweeps instead of printing them and exiting.

    Hydra decides this by an environment variable, which it reads when an exception arrives. `errors.WANTS_TRACEBACK`
    holds the user's value, and `fcn.execution.processes.child_environment` passes it on to other processes.
    """
    before = os.environ.get(FULL_ERROR, "0")
    os.environ[FULL_ERROR] = "1"
    try:
        yield
    finally:
        os.environ[FULL_ERROR] = before

"""Signals that stop a run: which they are, how they are noted, and who handles them after the run has been saved.

A signal never interrupts a training step. Its handler only notes it; after every step `fcn.training.checkpointing`
checks for signals, saves a checkpoint and calls `hand_over`. A sweep passes the signal on to its jobs, see
`fcn.execution.jobs`.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
"""Signals after which a run is saved and ends: Ctrl-C, `kill`, and those that clusters send before preemption."""


class SignalNotes:
    """Context manager that notes stop signals instead of ending the process.

    Outside the main thread it does nothing, since Python delivers signals to the main thread only.

    Args:
        react: function that the handler calls with the number of each signal, after it has been noted.

    Attributes:
        received: numbers of the signals, in the order in which they arrived.
    """

    def __init__(self, react: Callable[[int], None] | None = None) -> None:
        self.received: list[int] = []
        self._react = react
        self._previous_handlers: dict[int, Any] = {}

    def __enter__(self) -> SignalNotes:
        if threading.current_thread() is threading.main_thread():
            self._previous_handlers = {number: signal.getsignal(number) for number in STOP_SIGNALS}
        self.install()
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)

    def install(self) -> None:
        """Set the handlers, again if a library has replaced them since the context was entered."""
        for number in self._previous_handlers:
            signal.signal(number, self._note)

    def hand_over(self, number: int) -> None:
        """Forget a signal and pass it to the handler that was set before this context was entered; see `hand_over`."""
        while number in self.received:
            self.received.remove(number)
        hand_over(number, self._previous_handlers.get(number))

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received.append(number)
        if self._react is not None:
            self._react(number)


def hand_over(number: int, handler: Any) -> None:
    """Pass a signal to another handler after the run has been saved; without one, exit with status 128 + signal.

    submitit, for example, requeues the job and exits at its preemption signal, and ignores SIGTERM, which often
    precedes it; after SIGTERM this function returns and the run continues.

    Args:
        number: number of the signal.
        handler: handler as returned by `signal.getsignal`.

    Raises:
        SystemExit: if there is no handler besides Python's own.
    """
    if not callable(handler) or handler is signal.default_int_handler:
        raise SystemExit(128 + number)
    handler(number, None)

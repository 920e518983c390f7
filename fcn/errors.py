"""Explanation of exceptions in one line: invalid input, failures of the system and of libraries, and bugs.

Imports no torch, because only its exceptions' types and messages are needed, and no Hydra; see `fcn.config.messages`.
"""

from __future__ import annotations

import difflib
import errno
import os
import re
import signal
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

WANTS_TRACEBACK = os.environ.get("HYDRA_FULL_ERROR") == "1"
"""Whether the user enabled tracebacks, by Hydra's own environment variable."""

PACKAGE = Path(__file__).resolve().parent


def _lines_in_ipython(error: Exception) -> list[str]:
    """Return what IPython displays in place of a traceback: the message, as in a terminal."""
    return traceback.format_exception(error) if WANTS_TRACEBACK else [f"{type(error).__name__}: {error}"]


class UserError(ValueError):
    """Invalid input: one line that names the key or file, the value, the rule and the remedy.

    Commands print the message of this class and of its subclasses without a traceback, and end with status 1. Any other
    exception is reported as a failure of the system, or as a bug.
    """

    _render_traceback_ = _lines_in_ipython


class ConfigError(UserError):
    """An invalid configuration: the message names the key, its value, the rule and the remedy."""


class DataError(UserError):
    """Invalid or missing files of a dataset; the message names the problem and, after a semicolon, the remedy.

    Args:
        problem: file, value and rule.
        remedy: what the user can do. Optional because torch rebuilds an exception of a loader process from its
            complete message.
    """

    def __init__(self, problem: str, remedy: str = "") -> None:
        super().__init__(problem, remedy)

    def __str__(self) -> str:
        """Return problem and remedy in one line."""
        return "; ".join(part for part in self.args if part)


class RunFailure(RuntimeError):
    """Raised if a failure of the system or a bug stopped a run; the message explains it in one line."""

    _render_traceback_ = _lines_in_ipython


def nearest(name: str, known: Iterable[str]) -> str:
    """Return '; did you mean X?' for the known name closest to `name`, or an empty string if none is close."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


STORAGE_REMEDIES = {
    errno.ENOSPC: "free space there, or write to another disk",
    errno.EDQUOT: "free space there, or write to another disk",
    errno.EFBIG: "raise the limit of the file size (ulimit -f), or write to another disk",
    errno.EROFS: "make it writable, or write to another disk",
    errno.EACCES: "change its permissions, or use another folder",
    errno.EPERM: "change its permissions, or use another folder",
    errno.ENOTDIR: "a parent folder in its path is a file; move that file, or use another folder",
    errno.ENAMETOOLONG: "use a shorter name",
    errno.ESTALE: "check whether the file server responds",
    errno.EIO: "check the disk in the system log",
    errno.EMFILE: "raise the limit of open files (ulimit -n), or lower data.num_workers",
}

OUT_OF_MEMORY = re.compile(
    r"out of memory|can't allocate memory|cannot allocate memory|not enough memory|ALLOC_FAILED|bad_alloc"
    r"|could not (create|execute) a primitive$",  # by oneDNN, which gives no reason; the usual one is memory
    re.I,
)
ON_GPU = re.compile(r"\b(CUDA|CUBLAS|CUDNN|HIP)")
LOST_CONNECTION = re.compile(
    r"Connection (closed|reset) by peer|Connection refused|Broken pipe|remote process exited|lost connection to", re.I
)
"""Messages of a rank after another rank ended: a consequence of the failure, not its cause."""
NO_RESPONSE = re.compile(r"Timed out waiting \d+ms|Watchdog caught collective operation timeout", re.I)
LOADER = re.compile(
    r"DataLoader worker \(pid\(?s?\)? ?([\d, ]+)\) (?:is killed by signal: ([\w ]+)|exited unexpectedly)"
)
SHARED_MEMORY = re.compile(r"unable to (write to|open|allocate|mmap).*(/torch_|shared memory)|shm", re.I)
IN_LOADER = re.compile(r"(\w+: )?Caught (\w+) in DataLoader worker")


def explain(error: BaseException, values: Mapping[str, Any] | None = None, *, log: Path | None = None) -> str:
    """Explain an exception in one line: as invalid input, as a failure of the system, or as a bug.

    Args:
        error: the exception.
        values: values of the command's keys by dotted name; a message about memory names those that can be lowered.
        log: file that holds the traceback, if there is one.
    """
    if isinstance(error, (UserError, RunFailure)):
        return message_line(str(error))
    return describe_failure(error, values or {}) or describe_bug(error, log=log)


def describe_bug(
    error: BaseException, *, log: Path | None = None, origin_of: Callable[[str], str | None] = lambda file: None
) -> str:
    """Describe an unexpected exception by type, message, place in the code, and where to see its traceback.

    Args:
        error: the exception.
        log: file that holds the traceback, if there is one.
        origin_of: returns package or module of the component from outside to which a file belongs, or None.
    """
    in_loader = IN_LOADER.match(str(error))
    kind = in_loader[2] if in_loader else type(error).__name__
    place, origin = _place(error, origin_of)
    cause = f"this is an error in {origin}" if origin else "this is a bug"
    traceback_file = f"see the traceback in {log}, or" if log else "for the traceback,"
    return (
        f"{kind}: {message_line(str(error))}{f' ({place})' if place else ''}; "
        f"{cause}: {traceback_file} run again with HYDRA_FULL_ERROR=1"
    )


def _place(error: BaseException, origin_of: Callable[[str], str | None]) -> tuple[str, str | None]:
    """File and line of the innermost frame in this package or in a component, or of the raising frame; its origin."""
    frames = [(frame.filename, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    if IN_LOADER.match(str(error)):  # the process that raised it sent its traceback as text
        frames += re.findall(r'File "(.+?)", line (\d+)', str(error))
    inner = [(file, line) for file, line in frames if Path(file).is_relative_to(PACKAGE) or origin_of(file)]
    if not inner:
        return (f"{frames[-1][0]}:{frames[-1][1]}" if frames else ""), None
    file, line = inner[-1]
    if origin := origin_of(file):
        return f"{file}:{line}", origin
    return f"{Path(file).relative_to(PACKAGE.parent)}:{line}", None


def describe_failure(error: BaseException, values: Mapping[str, Any]) -> str | None:
    """Describe a failure of disk, memory, cluster or another process with a remedy; None for any other exception.

    Args:
        error: the exception.
        values: values of the command's keys by dotted name; a message about memory names those that can be lowered.
    """
    storage = next((e for e in exception_chain(error) if isinstance(e, OSError) and e.errno in STORAGE_REMEDIES), None)
    if storage is not None and (storage is error or type(error) is RuntimeError):
        return describe_storage_error(storage)
    text = str(error)
    if match := LOADER.search(text):
        return _describe_loader(match[1], match[2] or "", values)
    if isinstance(error, RuntimeError) and SHARED_MEMORY.search(text):
        return _describe_loader("", "Bus error", values)
    if is_out_of_memory(error):
        return _describe_memory(text, values)
    if type(error).__module__.startswith("submitit."):  # for example sbatch with an unknown partition
        return f"submitit could not execute the job: {message_line(text)}"
    if isinstance(error, RuntimeError) and LOST_CONNECTION.search(text):
        return "lost connection to another rank; see its error, or check the network between the ranks"
    if isinstance(error, RuntimeError) and NO_RESPONSE.search(text):
        return "another rank did not respond in time; check its machine, or raise trainer.timeout_minutes"
    return describe_storage_error(error) if isinstance(error, OSError) and error.errno and error.filename else None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception of Python, the system, torch or a library says that memory was not available."""
    return (
        isinstance(error, MemoryError)
        or getattr(error, "errno", None) == errno.ENOMEM
        or (isinstance(error, RuntimeError) and OUT_OF_MEMORY.search(str(error)) is not None)
    )


def exception_chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an exception and its causes, each once: causes that libraries set by hand may form a circle."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def message_line(message: str) -> str:
    """Return the informative line of a message: the first, or the last of an exception in a loader process."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    if lines and IN_LOADER.match(lines[0]):
        return lines[-1].partition(": ")[2]
    return lines[0] if lines else ""


def without_credentials(text: str) -> str:
    """Return a text with *** in place of user and password of its URLs."""
    return re.sub(r"://\S*@", "://***@", text)


def describe_storage_error(error: OSError) -> str:
    """Describe an error of the file system by file, reason and remedy."""
    number = error.errno or 0
    file = f"{error.filename}: " if error.filename else ""
    return f"{file}{os.strerror(number)}; {STORAGE_REMEDIES.get(number, 'check the path')}"


def describe_signal(number: int, values: Mapping[str, Any]) -> str:
    """Describe why a signal may have ended a process; the text follows the name of the process."""
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    if number == signal.SIGKILL:
        return f"was killed (SIGKILL), usually because memory ran out (see dmesg): {_memory_remedies(values)}"
    if number == signal.SIGBUS:
        return (
            "was killed by SIGBUS, usually because /dev/shm is full or a file that it read was truncated: use "
            "data.num_workers=0, or give the container more shared memory (docker run --shm-size=8g)"
        )
    return f"was killed by {name}, not by an error of the configuration: run again with data.num_workers=0 to locate it"


def _describe_loader(pids: str, reason: str, values: Mapping[str, Any]) -> str:
    signals = {"Bus error": signal.SIGBUS, "Segmentation fault": signal.SIGSEGV}
    process = f"a data loader process{f' ({pids})' if pids else ''}"
    return f"{process} {describe_signal(signals.get(reason.strip(), signal.SIGKILL), values)}"


def _describe_memory(text: str, values: Mapping[str, Any]) -> str:
    requested = re.search(r"(?:tried to allocate|Unable to allocate) ([\d.]+) (\w+)", text, re.I)
    memory = "GPU memory" if ON_GPU.search(text) else "memory"
    size = ""
    if requested:
        number, unit = requested.groups()
        amount = f"{float(number) / 2**30:.2f} GiB" if unit == "bytes" else f"{number} {unit}"
        size = f" (tried to allocate {amount})"
    return f"out of {memory}{size}: {_memory_remedies(values, on_gpu=bool(ON_GPU.search(text)))}"


def _memory_remedies(values: Mapping[str, Any], *, on_gpu: bool = False) -> str:
    """List the changes that need less memory, with the present values.

    Args:
        values: values of the command's keys by dotted name.
        on_gpu: whether it is the memory of a GPU.
    """

    def present(key: str) -> str:
        return f"{key} (={'null' if values[key] is None else values[key]})"

    remedies = []
    if "trainer.accumulate" in values:
        if not on_gpu and values["data.num_workers"]:
            remedies.append(f"lower {present('data.num_workers')}")
        is_automatic = values["trainer.accumulate"] == "auto"
        if not (is_automatic and on_gpu):
            # On a CPU, `auto` does not help, because oneDNN does not recover from an allocation that has failed.
            verb = "use auto for" if on_gpu else "use a number for" if is_automatic else "raise"
            remedies.append(f"{verb} {present('trainer.accumulate')}")
        if (values["trainer.val_batch_size"] or (8 if on_gpu else 1)) > 1:  # the defaults; see fcn.data.datasets
            remedies.append(f"lower {present('trainer.val_batch_size')}")
        if values["trainer.precision"] == "fp32":
            remedies.append(f"use bf16 for {present('trainer.precision')}")
        if is_automatic and not values["trainer.activation_checkpointing"]:
            remedies.append("use trainer.activation_checkpointing=true")
        sizes = ["data.crop_size"] if is_automatic else ["batch_size", "data.crop_size"]
        remedies.append(f"in a new run lower {' or '.join(map(present, sizes))}")
    if "inference" in values:
        remedies.append(f"lower {present('tile_size')}" if values["inference"] == "tiled" else "use inference=tiled")
        remedies += [
            f"lower {present(key)}" for key in ("batch_size", "scales") if values.get(key) not in (None, 1, [1.0])
        ]
    return ", ".join(remedies) or "stop other programs, or use a machine with more memory"

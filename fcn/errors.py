"""What exceptions of the system and of libraries mean to a person: one line with where, what and a remedy.

Imports no torch: exceptions of its processes and devices are told by their type's name and by their words.
"""

from __future__ import annotations

import errno
import os
import re
import signal
from collections.abc import Iterator, Mapping
from typing import Any

WANTS_TRACEBACK = os.environ.get("HYDRA_FULL_ERROR") == "1"
"""Whether the person who started this process asked for tracebacks, in Hydra's own way."""


class UserError(ValueError):
    """Invalid input: one line that names the key or file, the value, the rule and the remedy.

    Commands print the message of this class and of its subclasses without a traceback, and end with status 1. Any other
    exception is reported as a failure of the system, or as a bug.
    """


class Fault(UserError):
    """A failure outside the program, such as a full disk: the message says what failed and what to do."""


STORAGE = {
    errno.ENOSPC: "make room there, or write to another disk",
    errno.EDQUOT: "make room there, or write to another disk",
    errno.EFBIG: "raise the limit of file sizes (ulimit -f), or write to another disk",
    errno.EROFS: "have it made writable, or write to another disk",
    errno.EACCES: "have it made accessible, or use another folder",
    errno.EPERM: "have it made accessible, or use another folder",
    errno.ENOTDIR: "a folder of its path is a file; move that away, or use another folder",
    errno.EISDIR: "a folder has the name of this file; move that away, or use another name",
    errno.ENAMETOOLONG: "use a shorter name",
    errno.ELOOP: "a link of its path leads to itself; mend that link",
    errno.EIO: "see what the system's log says of the disk",
    errno.ESTALE: "see whether the file server answers",
    errno.EMFILE: "raise the limit (ulimit -n), or lower data.num_workers",
}
"""Remedies by error number."""

OUT_OF_MEMORY = re.compile(
    r"out of memory|can't allocate memory|cannot allocate memory|not enough memory|ALLOC_FAILED|bad_alloc", re.I
)
ON_GPU = re.compile(r"\b(CUDA|CUBLAS|CUDNN|HIP)")
LOST = re.compile(r"Connection (closed|reset) by peer|Connection refused|Broken pipe|remote process exited", re.I)
"""What a rank says whose neighbour has gone: an echo of the fault, not the fault."""
UNANSWERED = re.compile(r"Timed out waiting \d+ms|Watchdog caught collective operation timeout", re.I)
LOADER = re.compile(
    r"DataLoader worker \(pid\(?s?\)? ?([\d, ]+)\) (?:is killed by signal: ([\w ]+)|exited unexpectedly)"
)
SHARED_MEMORY = re.compile(r"unable to (write to|open|allocate|mmap).*(/torch_|shared memory)|shm", re.I)


def meaning(error: BaseException, values: Mapping[str, Any]) -> str | None:
    """What happened, where, and what to do; None if the exception is none of these.

    Args:
        error: as it was caught.
        values: of the keys that the command has, dotted; those that decide what was short are named with theirs.
    """
    links = list(chain(error))
    told = next((e for e in links if isinstance(e, OSError) and e.errno in STORAGE), None)
    if told is not None and (told is error or type(error) is RuntimeError):
        return storage(told)
    text = str(error)
    if match := LOADER.search(text):
        return _loader(match[1], match[2] or "", values)
    if isinstance(error, RuntimeError) and SHARED_MEMORY.search(text):
        return _loader("", "Bus error", values)
    if (
        isinstance(error, MemoryError)
        or getattr(error, "errno", None) == errno.ENOMEM
        or (isinstance(error, RuntimeError) and OUT_OF_MEMORY.search(text))
    ):
        return _memory(text, values)
    if isinstance(error, RuntimeError) and LOST.search(text):
        return "another rank of this run has gone, which says why itself, or the network between them failed"
    if isinstance(error, RuntimeError) and UNANSWERED.search(text):
        return (
            "another rank of this run has not answered in time; see whether its machine does, trainer.timeout_minutes"
        )
    return storage(error) if isinstance(error, OSError) and error.errno and error.filename else None


def chain(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and those that it came from, each once: what libraries set by hand may lead in a circle."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def line_of(message: str) -> str:
    """The line of an exception's message that says what happened: the first, or of a loader process's the last."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    if lines and re.match(r"(\w+: )?Caught \w+ in DataLoader worker", lines[0]):
        return lines[-1].partition(": ")[2]
    return lines[0] if lines else ""


def storage(error: OSError) -> str:
    """Which file or folder, what the system says of it, and a remedy."""
    number = error.errno or 0
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{os.strerror(number)}; {STORAGE.get(number, 'see whether the path is right')}"


def killed(number: int, values: Mapping[str, Any]) -> str:
    """Why a process may have been ended by a signal, to follow what it was."""
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    if number == signal.SIGKILL:
        return f"was killed (SIGKILL), as Linux does when memory is short (see dmesg): {_lower(values)}"
    if number == signal.SIGBUS:
        return (
            "ended by SIGBUS, as when /dev/shm is full or a file that it reads is cut off: use data.num_workers=0, or "
            "give the container more shared memory (docker run --shm-size=8g)"
        )
    return (
        f"ended by {name}, which is no error of the configuration: run it again, with data.num_workers=0 to see where"
    )


def _loader(pids: str, how: str, values: Mapping[str, Any]) -> str:
    number = {"Killed": signal.SIGKILL, "Bus error": signal.SIGBUS, "Segmentation fault": signal.SIGSEGV}.get(
        how.strip()
    )
    who = f"a data loader process{f' ({pids})' if pids else ''}"
    return f"{who} {killed(number or signal.SIGKILL, values)}"


def _memory(text: str, values: Mapping[str, Any]) -> str:
    wanted = re.search(r"(?:tried to allocate|Unable to allocate) ([\d.]+) (\w+)", text, re.I)
    where = "the GPU's memory" if ON_GPU.search(text) else "memory"
    size = f" for another {_readable(*wanted.groups())}" if wanted else ""
    return f"{where} is not enough{size}: {_lower(values, on_gpu=bool(ON_GPU.search(text)))}"


def _readable(number: str, unit: str) -> str:
    return f"{float(number) / 2**30:.2f} GiB" if unit == "bytes" else f"{number} {unit}"


def _lower(values: Mapping[str, Any], *, on_gpu: bool = False) -> str:
    """What needs less memory, with the values as they are."""

    def now(key: str) -> str:
        return f"{key} (={'null' if values[key] is None else values[key]})"

    ways = []
    if "trainer.accumulate" in values:
        if not on_gpu and values["data.num_workers"]:
            ways.append(f"lower {now('data.num_workers')}")
        ways.append(f"raise {now('trainer.accumulate')}")
        if (values["trainer.val_batch_size"] or (8 if on_gpu else 1)) > 1:  # as fcn.data.module has it
            ways.append(f"lower {now('trainer.val_batch_size')}")
        if values["trainer.precision"] == "fp32":
            ways.append(f"use bf16 for {now('trainer.precision')}")
        ways.append(f"in a new run lower {now('batch_size')} or {now('data.crop_size')}")
    if "inference" in values:
        ways.append(f"lower {now('tile_size')}" if values["inference"] == "tiled" else "use inference=tiled")
        ways += [f"lower {now(key)}" for key in ("batch_size", "scales") if values.get(key) not in (None, 1, [1.0])]
    return ", ".join(ways) or "end what else is running, or use a machine with more"

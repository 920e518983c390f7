"""Files that appear whole or not at all, and what is in them."""

import contextlib
import functools
import hashlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

TEMPORARY = ".*.tmp"
"""Names of files that are being written, or were when their process was killed."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path`, which takes its place in the end: a reader never meets half a file.

    After an exception `path` is as it was.
    """
    # Not tempfile: its files are readable by their owner alone. Not from path.name: that may be at its limit.
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def sha256_of(path: Path) -> str:
    """Of a file, in hexadecimal; read once in a process as long as the file stays as it is."""
    state = path.stat()
    return _sha256(path.resolve(), state.st_ino, state.st_mtime_ns, state.st_size)


@functools.cache
def _sha256(path: Path, *state: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()

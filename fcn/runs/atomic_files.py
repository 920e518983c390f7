"""Files that appear whole or not at all, and what is in them."""

import contextlib
import functools
import hashlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from fcn.errors import chain

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
        with named_in_errors(path, temporary):
            yield temporary
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # where nothing can be written, nothing was
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def named_in_errors(path: Path, *aliases: Path) -> Iterator[None]:
    """Has the system's errors inside name `path`: a full disk names no file, and a temporary one is nobody's.

    Args:
        path: of the file.
        aliases: other names of it.
    """
    try:
        yield
    except Exception as error:
        for link in chain(error):  # torch.save raises one of its own after the system's
            if isinstance(link, OSError) and link.errno and link.filename in (None, *map(str, aliases)):
                link.filename = str(path)
                if link.filename2 is not None:
                    link.filename2 = str(path)
        raise


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

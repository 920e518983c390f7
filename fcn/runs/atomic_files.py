"""Files and folders that appear complete or not at all: built under a temporary name, then renamed. File hashes."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from fcn.errors import exception_chain

TEMPORARY = ".*.tmp"
"""Pattern of the names of files that are being written, or whose process was killed while it wrote them."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary name in the folder of `path`; the file written there replaces `path` at the end.

    After an exception `path` is unchanged and the temporary file is deleted. Errors of the system name `path`.
    """
    # Not tempfile: only their owner may read its files. Not from path.name, which may have the maximum length already.
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        with named_in_errors(path, temporary):
            yield temporary
            os.replace(temporary, path)
    finally:
        with contextlib.suppress(OSError):  # a folder that cannot be written holds no temporary file
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8 by `replacing`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def copy_file(source: Path, target: Path) -> None:
    """Copy a file by `replacing`; as a hard link where the file system supports it."""
    with replacing(target) as temporary:
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


@contextlib.contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """Yield a new hidden folder in `parent`, and delete it at the end.

    `parent` is created if necessary, and deleted again if it is still empty.
    """
    missing = [folder for folder in (parent, *parent.parents) if not folder.exists()]
    # Not tempfile.mkdtemp: its mode 0700 would survive a rename and lock out other users.
    temporary = parent / f".{uuid.uuid4().hex}"
    try:
        with named_in_errors(parent, temporary):
            temporary.mkdir(parents=True)
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        with contextlib.suppress(OSError):
            for folder in missing:
                folder.rmdir()


@contextlib.contextmanager
def new_folder(path: Path, *, part: str | Path = ".") -> Iterator[Path]:
    """Yield a temporary folder next to `path` that is renamed to `path` at the end.

    If another process has created `path` in the meantime, its folder is used.

    Args:
        path: path of the folder; its parent is created if necessary.
        part: subfolder of the temporary folder that becomes `path`; by default all of it.
    """
    with temporary_folder(path.parent) as folder:
        yield folder
        try:
            os.rename(folder / part, path)
        except OSError:
            if not path.is_dir():
                raise


@contextlib.contextmanager
def replacing_files(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder whose files are moved into `folder` at the end, replacing those of the same name.

    After an exception `folder` is unchanged.
    """
    with temporary_folder(folder) as temporary:
        yield temporary
        for path in sorted(temporary.iterdir()):
            os.replace(path, folder / path.name)


@contextlib.contextmanager
def named_in_errors(path: Path, *aliases: Path) -> Iterator[None]:
    """Add `path` to the system's errors inside the context, because errors of a full disk name no file.

    Args:
        path: path of the file.
        aliases: names to replace by `path`, such as a temporary name.
    """
    try:
        yield
    except Exception as error:
        for link in exception_chain(error):  # torch.save raises an error of its own after the system's
            if isinstance(link, OSError) and link.errno and link.filename in (None, *map(str, aliases)):
                link.filename = str(path)
                if link.filename2 is not None:
                    link.filename2 = str(path)
        raise


def sha256_of(path: Path) -> str:
    """Return the hash of a file in hexadecimal; an unchanged file is read once per process."""
    state = path.stat()
    return _sha256(path.resolve(), state.st_ino, state.st_mtime_ns, state.st_size)


@functools.cache
def _sha256(path: Path, *state: int) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()

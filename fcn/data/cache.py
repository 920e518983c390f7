"""The decoded images of a split in a file that is mapped into memory: decoded once for all processes and all runs.

What a process reads of it lies in the system's page cache, which all processes share and which the system takes back
when memory is short. The file holds, one after the other:

    MAGIC, and the key of the set, 32 bytes
    height and width of every image, little-endian int64 [N, 2]
    for every pair the image, uint8 [H, W, 3] RGB, and the mask, uint8 [H, W]

It is named `<split>-<place>-<key>.decoded`. The key is a hash of whatever decides the pixels: names, sizes and times of
the files, the decoder, the number of classes that masks are checked for. The place is a hash of where the set is and of
the decoder, so that sets and environments can share one folder. A set that has changed has another key: the file under
its former one is removed when the new one is made. All of them may be deleted at any time; processes keep what they
have mapped.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import logging
import os
import shutil
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from PIL import features
from rich.progress import Progress
from torch import Tensor

from fcn.data import voc
from fcn.data.prefetch import read_ahead
from fcn.data.voc import Pair
from fcn.runs.atomic_files import replacing

log = logging.getLogger(__name__)

MAGIC = b"FCN-set1"  # the figure is raised whenever the format or the reading of images changes
BYTES_PER_PIXEL = 4  # of an image and its mask

Size = tuple[int, int]  # height, width


class Decoded:
    """Images and masks of a cache file; pickled, as for a loader process, it is the file's name and not the pixels.

    Attributes:
        path: of the file.
        sizes: height and width of every image.
        starts: byte in the file at which every image begins.
    """

    def __init__(self, path: Path, sizes: Sequence[Size], starts: Sequence[int]) -> None:
        self.path = path
        self.sizes = list(sizes)
        self.starts = list(starts)
        self._bytes: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_bytes": None}

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Image, uint8 [3, H, W] with channels last, and mask, uint8 [H, W]: views of the file, only to be read.

        Only the pages of what is read of them come into memory.
        """
        if self._bytes is None:
            self.map()
        assert self._bytes is not None
        (height, width), start = self.sizes[index], self.starts[index]
        middle, end = (start + count * height * width for count in (3, BYTES_PER_PIXEL))
        image = self._bytes[start:middle].view(height, width, 3).permute(2, 0, 1)
        return image, self._bytes[middle:end].view(height, width)

    def select(self, indices: Sequence[int]) -> Decoded:
        """These images alone, out of the same file."""
        some = Decoded(self.path, [self.sizes[i] for i in indices], [self.starts[i] for i in indices])
        some._bytes = self._bytes
        return some

    def map(self) -> Decoded:
        """Itself, mapped from here on: what it reads stays even if the file is deleted."""
        self._bytes = _map(self.path)
        return self


def _map(path: Path) -> Tensor:
    # Read-only: of a private writable mapping, the system refuses one that is larger than its memory.
    content = np.memmap(path, np.uint8, mode="r")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*not writable")
        return torch.from_numpy(content)


def cache_folders(root: Path, cache_dir: str | None) -> list[Path]:
    """Where a cache file may lie, best first: `cache_dir` alone if there is one, see `data.cache_dir`."""
    if cache_dir:
        return [Path(cache_dir)]
    home = Path(os.path.expanduser("~"))  # stays "~" for a user of a container who has none
    return [root / "cache", *([home / ".cache" / "fcn"] if home.is_absolute() else [])]


def find(pairs: Sequence[Pair], split: str, *, num_classes: int, folders: Sequence[Path]) -> Decoded | None:
    """The cache of a set if it is in one of the folders, whole and of the files as they are now."""
    prefix, key = _identity(pairs, split, num_classes)
    found = (_opened(_file(folder, prefix, key), key, len(pairs)) for folder in folders)
    return next((decoded for decoded in found if decoded), None)


def prepare(sets: Mapping[str, Sequence[Pair]], *, num_classes: int, folders: Sequence[Path]) -> None:
    """Make the caches of these sets that are not there yet; one line in the log says where they are and how large.

    Where none can be written, the log has a warning, and images are decoded whenever they are used.

    Args:
        sets: pairs by the name of their split.
        num_classes: that the masks may name.
        folders: where the files may be, best first.

    Raises:
        DataError: if a pair cannot be read; then its set has no file.
    """
    start = time.perf_counter()
    options: dict[str, Any] = {"num_classes": num_classes, "folders": folders}
    found = [find(pairs, split, **options) for split, pairs in sets.items()]
    made = None in found
    found = [there or _make(sets[split], split, **options) for split, there in zip(sets, found, strict=True)]
    files = [decoded for decoded in found if decoded]
    if len(files) < len(found):
        return
    images = " + ".join(str(len(decoded.sizes)) for decoded in files)
    megabytes = sum(decoded.path.stat().st_size for decoded in files) / 1e6
    where = " and ".join(sorted({str(decoded.path.parent) for decoded in files}))
    how = f"made in {time.perf_counter() - start:.1f} s" if made else "found"
    log.info("cache    %s images decoded, %.1f MB in %s (%s)", images, megabytes, where, how)


def _identity(pairs: Sequence[Pair], split: str, num_classes: int) -> tuple[str, bytes]:
    """Prefix of the file's name, which stays when the set changes, and the key, which does not."""
    decoder = f"{PIL.__version__} {features.version('libjpeg_turbo')}"
    place = f"{pairs[0].mask.parent.resolve()} {split} {num_classes} {decoder}"
    states = [(pair.name, pair.image.stat(), pair.mask.stat()) for pair in pairs]
    lines = [f"{n} {i.st_size} {i.st_mtime_ns} {m.st_size} {m.st_mtime_ns}" for n, i, m in states]
    key = hashlib.sha256("\n".join([place, *lines]).encode()).digest()
    return f"{split[:60]}-{hashlib.sha256(place.encode()).hexdigest()[:8]}-", key


def _file(folder: Path, prefix: str, key: bytes) -> Path:
    return folder / f"{prefix}{key.hex()[:16]}.decoded"


def _opened(path: Path, key: bytes, num_images: int) -> Decoded | None:
    """None if it is absent, cut off, or no cache of this key."""
    length = len(MAGIC) + len(key) + 16 * num_images
    try:
        with open(path, "rb") as file:
            head, size = file.read(length), os.fstat(file.fileno()).st_size
    except OSError:
        return None
    if len(head) < length or not head.startswith(MAGIC + key):
        return None
    sizes = np.frombuffer(head, "<i8", offset=len(MAGIC) + len(key)).reshape(-1, 2).tolist()
    *starts, end = accumulate((BYTES_PER_PIXEL * h * w for h, w in sizes), initial=length)
    return Decoded(path, [(h, w) for h, w in sizes], starts).map() if end == size else None


def _make(pairs: Sequence[Pair], split: str, *, num_classes: int, folders: Sequence[Path]) -> Decoded | None:
    """The cache in the first folder that takes it; None, and a warning, if none does."""
    prefix, key = _identity(pairs, split, num_classes)
    problem = None
    for folder in folders:
        path = _file(folder, prefix, key)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with _alone(folder) as alone:
                # Whoever had the folder before may have made the same.
                if not _opened(path, key, len(pairs)):
                    _remove_outdated(folder, prefix, unfinished=alone)
                    _write(path, key, pairs, num_classes)
            return _opened(path, key, len(pairs))
        except OSError as error:
            problem = error
    remedy = "use data.cache_dir=<another folder>, or data.cache=false to be content with that"
    log.warning(
        "images of %s are decoded at every use, as their cache cannot be written: %s; %s", split, problem, remedy
    )
    return None


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[bool]:
    """One process at a time makes caches in a folder; False where the file system knows no locks."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        locked = True
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:
            locked = False  # two may make the same file then, and the last one stays
        yield locked
    finally:
        os.close(descriptor)


def _remove_outdated(folder: Path, prefix: str, *, unfinished: bool) -> None:
    """Of the set that `prefix` names; and if `unfinished`, what killed processes have left."""
    for path in folder.iterdir():
        if path.name.startswith(prefix) or (unfinished and path.match(".*.tmp")):
            path.unlink(missing_ok=True)


def _write(path: Path, key: bytes, pairs: Sequence[Pair], num_classes: int) -> None:
    """Decode every pair into the file, a few at a time."""
    sizes = [voc.image_size(pair.image) for pair in pairs]
    needed, free = sum(BYTES_PER_PIXEL * h * w for h, w in sizes), shutil.disk_usage(path.parent).free
    if needed > free:
        raise OSError(
            errno.ENOSPC, f"{needed / 1e6:.0f} MB are needed and {free / 1e6:.0f} MB are free", str(path.parent)
        )
    decoding = read_ahead(lambda pair: voc.read_pair(pair, num_classes), pairs)
    with (
        replacing(path) as temporary,
        open(temporary, "wb") as file,
        Progress(transient=True, disable=not sys.stdout.isatty()) as progress,
    ):
        file.write(MAGIC + key + np.array(sizes, "<i8").tobytes())
        for _, reading in progress.track(decoding, total=len(pairs), description="decoding images"):
            image, mask = reading.result()
            file.write(image.permute(1, 2, 0).numpy().data)
            file.write(mask.numpy().data)
        file.flush()
        os.fsync(file.fileno())  # else the name may outlive a power failure, and the pixels may not

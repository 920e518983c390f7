"""Cache of the decoded images of a split: a memory-mapped file, written once for all processes and runs.

Pages that processes read are in the system's page cache, which all processes share and which the system frees when
memory is short. The file contains, in this order:

    MAGIC and the key of the set, 32 bytes
    height and width of every image, little-endian int64 [N, 2]
    facts on every image and mask, little-endian int64 [N, classes + 3], see `fcn.data.set_facts.SetFacts`
    for every pair the image, uint8 [H, W, 3] RGB, and the mask, uint8 [H, W]

Its name is `<split>-<place>-<key>.decoded`. A cache is valid if its key is that of the set: a hash of everything that
determines the pixels, namely the names, sizes and modification times of the files, the decoder, and how masks are read,
such as the number of classes that they are checked for. The place is a hash of the set's folders and all of these but
the files, so that several sets and environments can share a folder. When a set has changed, its old file is removed
when the new one is written. All files may be deleted at any time; a process can still read the files that it has
mapped.
"""

from __future__ import annotations

import contextlib
import ctypes
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

from fcn.data.image_decoding import Size
from fcn.data.pair_reader import PairReader
from fcn.data.prefetch import read_ahead
from fcn.data.set_facts import COLUMNS, SetFacts, combine_facts
from fcn.data.split_lists import Pair
from fcn.runs.atomic_files import replacing

log = logging.getLogger(__name__)

MAGIC = b"FCN-set2"  # raise the number when the format or the decoding of images changes
BYTES_PER_PIXEL = 4  # of an image and its mask


class DecodedImages:
    """Images and masks of a cache file; pickled, for example for a loader process, without the pixels.

    Attributes:
        path: the cache file.
        sizes: height and width of every image.
        starts: offset in the file at which every image begins, bytes.
        facts: facts on the images and masks; None in a loader process.
    """

    def __init__(
        self, path: Path, sizes: Sequence[Size], starts: Sequence[int], *, facts: SetFacts | None = None
    ) -> None:
        self.path = path
        self.sizes = list(sizes)
        self.starts = list(starts)
        self.facts = facts
        self._bytes: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_bytes": None, "facts": None}

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        """Return image, uint8 [3, H, W] with channels last, and mask, uint8 [H, W]: read-only views of the file.

        Only the pages that are read are loaded into memory.
        """
        if self._bytes is None:
            self.map()
        assert self._bytes is not None
        (height, width), start = self.sizes[index], self.starts[index]
        middle, end = (start + count * height * width for count in (3, BYTES_PER_PIXEL))
        image = self._bytes[start:middle].view(height, width, 3).permute(2, 0, 1)
        return image, self._bytes[middle:end].view(height, width)

    def select(self, indices: Sequence[int]) -> DecodedImages:
        """Return a subset of the images, read from the same file."""
        facts = self.facts.select(indices) if self.facts else None
        sizes, starts = [self.sizes[i] for i in indices], [self.starts[i] for i in indices]
        subset = DecodedImages(self.path, sizes, starts, facts=facts)
        subset._bytes = self._bytes
        return subset

    def map(self) -> DecodedImages:
        """Map the file now, so that its content stays available if it is deleted; return self."""
        # Read-only: Linux refuses a private writable mapping that is larger than its memory.
        content = np.memmap(self.path, np.uint8, mode="r")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*not writable")
            self._bytes = torch.from_numpy(content)
        return self


def cache_folder(root: Path, cache_dir: str | None) -> Path:
    """Return the folder of the cache files: `cache_dir`, or by default `cache` in the root of the dataset."""
    return Path(cache_dir) if cache_dir else root / "cache"


def open_cache(pairs: Sequence[Pair], split: str, *, reader: PairReader, folder: Path) -> DecodedImages | None:
    """Return the cache of a set, or None if the folder has none that is complete and valid for the present files."""
    path, _, key = _identity(pairs, split, reader, folder)
    return _open_file(path, key, len(pairs), reader.num_classes)


def write_missing_caches(sets: Mapping[str, Sequence[Pair]], *, reader: PairReader, folder: Path) -> None:
    """Write the caches that do not exist yet, and log their location and size.

    If a cache cannot be written, a warning is logged and the images are decoded at every use.

    Args:
        sets: pairs by the name of their split.
        reader: reader of the pairs.
        folder: folder of the cache files.

    Raises:
        DataError: if a pair cannot be read; its set then has no cache.
    """
    start = time.perf_counter()
    caches, reused = [], True
    for split, pairs in sets.items():
        cache = open_cache(pairs, split, reader=reader, folder=folder)
        if cache is None:
            reused = False
            try:
                cache = _write_cache(pairs, split, reader, folder)
            except OSError as error:
                remedy = "use data.cache_dir=<another folder>, or data.cache=false"
                log.warning(
                    "cannot cache the images of %s: %s; they are decoded at every use; %s", split, error, remedy
                )
                continue
        caches.append(cache)
    if len(caches) < len(sets):
        return
    images = " + ".join(str(len(cache.sizes)) for cache in caches)
    megabytes = sum(cache.path.stat().st_size for cache in caches) / 1e6
    how = "reused" if reused else f"written in {time.perf_counter() - start:.1f} s"
    log.info("cache    %s images decoded, %.1f MB in %s (%s)", images, megabytes, folder, how)


def _identity(pairs: Sequence[Pair], split: str, reader: PairReader, folder: Path) -> tuple[Path, str, bytes]:
    """Return the cache file of a set, the prefix of its name, and its key.

    When files of the set change, the prefix stays and the key does not.
    """
    decoder = f"{PIL.__version__} {features.version('libjpeg_turbo')}"
    # The images of two sets may differ although names, sizes, times and masks are equal, as of uncompressed files.
    parents = {file.parent for pair in pairs for file in (pair.image, pair.mask)}
    folders = "\n".join(sorted(str(parent.resolve()) for parent in parents))
    place = f"{folders} {split} {reader.num_classes} {decoder} {reader.identity}".rstrip()
    states = [(pair.name, pair.image.stat(), pair.mask.stat()) for pair in pairs]
    lines = [f"{n} {i.st_size} {i.st_mtime_ns} {m.st_size} {m.st_mtime_ns}" for n, i, m in states]
    key = hashlib.sha256("\n".join([place, *lines]).encode()).digest()
    prefix = f"{split[:60]}-{hashlib.sha256(place.encode()).hexdigest()[:8]}-"
    return folder / f"{prefix}{key.hex()[:16]}.decoded", prefix, key


def _open_file(path: Path, key: bytes, num_images: int, num_classes: int) -> DecodedImages | None:
    """Return the cache in a file, or None if the file is missing, truncated, or not the cache with this key."""
    columns = num_classes + COLUMNS
    length = len(MAGIC) + len(key) + 8 * (2 + columns) * num_images
    try:
        with open(path, "rb") as file:
            head, size = file.read(length), os.fstat(file.fileno()).st_size
    except OSError:
        return None
    if len(head) < length or not head.startswith(MAGIC + key):
        return None
    numbers = np.frombuffer(head, "<i8", offset=len(MAGIC) + len(key))
    sizes = numbers[: 2 * num_images].reshape(-1, 2).tolist()
    facts = SetFacts(numbers[2 * num_images :].reshape(num_images, columns).astype(np.int64))
    *starts, end = accumulate((BYTES_PER_PIXEL * h * w for h, w in sizes), initial=length)
    return DecodedImages(path, [(h, w) for h, w in sizes], starts, facts=facts).map() if end == size else None


def _write_cache(pairs: Sequence[Pair], split: str, reader: PairReader, folder: Path) -> DecodedImages:
    """Write and open the cache of a set, unless another process does so at the same time; raises OSError."""
    path, prefix, key = _identity(pairs, split, reader, folder)
    folder.mkdir(parents=True, exist_ok=True)
    with _exclusive_access(folder) as locked:
        # The process that held the lock before may have written the same cache.
        if not _open_file(path, key, len(pairs), reader.num_classes):
            for former in folder.iterdir():
                if former.name.startswith(prefix) or (locked and former.match(".*.tmp")):  # left by a killed process
                    former.unlink(missing_ok=True)
            _decode_into(path, key, pairs, reader)
            _return_freed_memory()
    cache = _open_file(path, key, len(pairs), reader.num_classes)
    if cache is None:
        raise OSError(errno.EIO, "the file was changed or removed while it was written", str(path))
    return cache


def _return_freed_memory() -> None:
    """Return the buffers of the decoding threads to the system; glibc would keep about 20 MB of them."""
    if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)


@contextlib.contextmanager
def _exclusive_access(folder: Path) -> Iterator[bool]:
    """Let one process at a time write caches into a folder; yields False if the file system has no locks."""
    descriptor = os.open(folder, os.O_RDONLY)
    locked = False  # two processes may then write the same file, and the last one remains
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            locked = True
        yield locked
    finally:
        os.close(descriptor)


def _decode_into(path: Path, key: bytes, pairs: Sequence[Pair], reader: PairReader) -> None:
    """Decode every pair into the file, a few at a time."""
    sizes = [reader.size(pair.image) for pair in pairs]
    needed, free = sum(BYTES_PER_PIXEL * h * w for h, w in sizes), shutil.disk_usage(path.parent).free
    if needed > free:
        problem = f"{needed / 1e6:.0f} MB are needed and {free / 1e6:.0f} MB are free"
        raise OSError(errno.ENOSPC, problem, str(path.parent))
    facts = []
    with (
        read_ahead(reader.inspect, pairs) as readings,
        replacing(path) as temporary,
        open(temporary, "wb") as file,
        Progress(transient=True, disable=not sys.stdout.isatty()) as progress,
    ):
        head = MAGIC + key + np.array(sizes, "<i8").tobytes()
        file.write(head + bytes(8 * len(pairs) * (reader.num_classes + COLUMNS)))
        for _, reading in progress.track(readings, total=len(pairs), description="decoding images"):
            image, mask, of_file = reading.result()
            facts.append(of_file)
            file.write(image.permute(1, 2, 0).numpy().data)
            file.write(mask.numpy().data)
        file.seek(len(head))  # palettes are compared after all masks have been read
        file.write(combine_facts(facts, reader.num_classes).table.astype("<i8").tobytes())
        file.flush()
        os.fsync(file.fileno())  # after a power failure, the file might otherwise exist without the pixels

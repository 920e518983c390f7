"""Download, verification and extraction of the Pascal VOC 2012 archive."""

from __future__ import annotations

import http.client
import logging
import socket
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from fcn.data.split_lists import SPLIT_LISTS, TREE
from fcn.errors import DataError
from fcn.runs.atomic_files import new_folder

log = logging.getLogger(__name__)

MIRROR = "https://d2l-data.s3-accelerate.amazonaws.com/VOCtrainval_11-May-2012.tar"
"""Second source of VOC's archive: that of the book "Dive into Deep Learning"."""

STALLED_SECONDS = 60
"""A source that sends nothing for this long has failed."""


def download(root: Path) -> None:
    """Create <root>/VOCdevkit/VOC2012 unless it exists; downloads VOC's archive (2 GB) into `root` unless it is there.

    The archive is verified before it is extracted, and is not deleted. The tree appears complete or not at all. Only
    one process may call this for a root, because two processes would write to the same archive.

    Raises:
        DataError: if the download, the verification or the extraction fails, or an incomplete tree exists.
    """
    # Imported here because torchvision takes seconds to import, and only a download needs it.
    from torchvision.datasets.voc import DATASET_YEAR_DICT

    tree = root / TREE
    if any((folder / SPLIT_LISTS).is_dir() for folder in (tree, root)):
        return
    if tree.exists():
        raise DataError(f"{tree} must contain {SPLIT_LISTS}", "move the incomplete tree away")
    source = DATASET_YEAR_DICT["2012"]
    _extract(fetch_archive(root, source["filename"], md5=source["md5"], urls=[source["url"], MIRROR]), tree)


def fetch_archive(root: Path, name: str, *, md5: str, urls: Sequence[str]) -> Path:
    """Return the verified archive <root>/<name>, downloaded with a progress bar unless it is there with the right md5.

    Args:
        root: folder of the archive; created if necessary.
        name: file name of the archive.
        md5: its checksum.
        urls: its sources; the next one is used if one fails.

    Raises:
        DataError: if all sources fail.
    """
    from torchvision.datasets.utils import download_url

    failures = []
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(STALLED_SECONDS)
    try:
        for url in urls:
            try:
                download_url(url, root, name, md5)
                return root / name
            except (OSError, RuntimeError, http.client.HTTPException) as error:  # RuntimeError: wrong md5
                failures.append(f"{url}: {error}")
                log.warning("downloading %s failed: %s", url, error)
    finally:
        socket.setdefaulttimeout(timeout)
    raise DataError(
        f"downloading {root / name} failed from {' and from '.join(failures)}",
        f"check network and disk space and try again, or copy the file (md5 {md5}) there by other means",
    )


def _extract(archive: Path, tree: Path) -> None:
    """Extract into a temporary folder next to `tree` and rename it, so that `tree` is never incomplete."""
    if not hasattr(tarfile, "data_filter"):
        problem = f"extracting {archive} safely needs Python 3.10.12, 3.11.4, 3.12 or newer"
        raise DataError(problem, f"update Python, or extract the archive by hand into {tree.parent.parent}")
    try:
        with new_folder(tree, part=TREE) as temporary, open_archive(archive) as tar:
            tar.extractall(temporary, filter="data")
    except (OSError, tarfile.TarError) as error:
        remedy = "make room for another 2 GB, or delete the archive, and try again"
        raise DataError(f"extracting {archive} into {tree} failed: {error}", remedy) from error


@contextmanager
def open_archive(archive: Path) -> Iterator[tarfile.TarFile]:
    """Open a tar archive, compressed or not, whose members are read in order, with a progress bar."""
    console = Console(stderr=True)
    with (
        Progress(console=console, transient=True, disable=not console.is_terminal) as progress,
        progress.open(archive, "rb", description=f"extracting {archive.name}") as file,
        tarfile.open(fileobj=file) as tar,
    ):
        yield tar

"""Pascal VOC 2012's archive: fetched, verified, unpacked."""

from __future__ import annotations

import http.client
import tarfile
from pathlib import Path

from fcn.data.voc import SPLIT_LISTS, TREE, DataError
from fcn.runs.atomic_files import new_folder


def download(root: Path) -> None:
    """Makes <root>/VOCdevkit/VOC2012, fetching VOC's archive (2 GB) into root where neither is there.

    The archive is verified before it is unpacked, and kept. The tree appears all at once or not at all. Only
    one process may call this for a root, since two would write to the same archive.

    Raises:
        DataError: if fetching, verifying or unpacking fails, or an incomplete tree is in the way.
    """
    tree = root / TREE
    if any((folder / SPLIT_LISTS).is_dir() for folder in (tree, root)):
        return
    if tree.exists():
        raise DataError(f"{tree} must hold {SPLIT_LISTS}", "move the half unpacked tree away")
    _unpack(_fetch(root), tree)


def _fetch(root: Path) -> Path:
    """The verified archive in root, fetched with a progress bar unless one with the right sum is there."""
    # torchvision takes seconds to import, and here only a download needs it.
    from torchvision.datasets.utils import download_url
    from torchvision.datasets.voc import DATASET_YEAR_DICT

    source = DATASET_YEAR_DICT["2012"]
    archive = Path(root, source["filename"])
    try:
        download_url(source["url"], root, source["filename"], source["md5"])
    except (OSError, RuntimeError, http.client.HTTPException) as error:  # RuntimeError: the sum is wrong
        problem = f"{source['url']} must be fetched to {archive}, which failed: {error}"
        other = f"or bring the file (md5 {source['md5']}) there by other means"
        raise DataError(problem, f"check network and disk space and start again, {other}") from error
    return archive


def _unpack(archive: Path, tree: Path) -> None:
    """Unpacks beside `tree` and renames, so that a half unpacked tree is never taken for a complete one."""
    if not hasattr(tarfile, "data_filter"):
        problem = f"Python must be at least 3.10.12, 3.11.4 or 3.12 to unpack {archive} safely"
        raise DataError(problem, f"update it, or unpack by hand into {tree.parent.parent}")
    try:
        with new_folder(tree, part=TREE) as temporary, tarfile.open(archive) as tar:
            tar.extractall(temporary, filter="data")
    except (OSError, tarfile.TarError) as error:
        remedy = "make room for another 2 GB, or delete the archive, and start again"
        raise DataError(f"{archive} must unpack into {tree}: {error}", remedy) from error

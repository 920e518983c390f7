"""Download, verification and extraction of the Pascal VOC 2012 archive."""

from __future__ import annotations

import http.client
import tarfile
from pathlib import Path

from fcn.data.split_lists import SPLIT_LISTS, TREE
from fcn.errors import DataError
from fcn.runs.atomic_files import new_folder


def download(root: Path) -> None:
    """Create <root>/VOCdevkit/VOC2012 unless it exists; downloads VOC's archive (2 GB) into `root` unless it is there.

    The archive is verified before it is extracted, and is not deleted. The tree appears complete or not at all. Only
    one process may call this for a root, because two processes would write to the same archive.

    Raises:
        DataError: if the download, the verification or the extraction fails, or an incomplete tree exists.
    """
    tree = root / TREE
    if any((folder / SPLIT_LISTS).is_dir() for folder in (tree, root)):
        return
    if tree.exists():
        raise DataError(f"{tree} must contain {SPLIT_LISTS}", "move the incomplete tree away")
    _extract(_fetch(root), tree)


def _fetch(root: Path) -> Path:
    """Return the verified archive in root, downloaded with a progress bar unless it is there with the right md5."""
    # Imported here because torchvision takes seconds to import, and only a download needs it.
    from torchvision.datasets.utils import download_url
    from torchvision.datasets.voc import DATASET_YEAR_DICT

    source = DATASET_YEAR_DICT["2012"]
    archive = Path(root, source["filename"])
    try:
        download_url(source["url"], root, source["filename"], source["md5"])
    except (OSError, RuntimeError, http.client.HTTPException) as error:  # RuntimeError: wrong md5
        problem = f"downloading {source['url']} to {archive} failed: {error}"
        other = f"or copy the file (md5 {source['md5']}) there by other means"
        raise DataError(problem, f"check network and disk space and try again, {other}") from error
    return archive


def _extract(archive: Path, tree: Path) -> None:
    """Extract into a temporary folder next to `tree` and rename it, so that `tree` is never incomplete."""
    if not hasattr(tarfile, "data_filter"):
        problem = f"extracting {archive} safely needs Python 3.10.12, 3.11.4, 3.12 or newer"
        raise DataError(problem, f"update Python, or extract the archive by hand into {tree.parent.parent}")
    try:
        with new_folder(tree, part=TREE) as temporary, tarfile.open(archive) as tar:
            tar.extractall(temporary, filter="data")
    except (OSError, tarfile.TarError) as error:
        remedy = "make room for another 2 GB, or delete the archive, and try again"
        raise DataError(f"extracting {archive} into {tree} failed: {error}", remedy) from error

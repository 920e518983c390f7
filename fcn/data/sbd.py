"""Semantic Boundaries Dataset (SBD): annotations of 11355 images of VOC, as masks and lists in VOC's layout.

Facts: lists of 8498 training and 2857 validation images, which differ from those of VOC: some images of SBD's train are
in VOC's val. Masks have VOC's classes and no void pixels.

The result is what segmentation projects distribute as SegmentationClassAug with 12031 masks: those of SBD, replaced by
VOC's own where VOC has one, which are more accurate and have void borders (Chen et al. 2015, DeepLab). The lists:

    train_aug  10582 images: all of SBD and VOC's train, without VOC's val
    sbd_train  SBD's train, on which Long et al. 2015 trained; evaluate on seg11valid, which shares no image with it

Source: Hariharan et al. 2011, "Semantic Contours from Inverse Detectors".
"""

from __future__ import annotations

import importlib.util
import shutil
import tarfile
from collections.abc import Sequence
from contextlib import nullcontext
from io import BytesIO
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from fcn.data.download import fetch_archive, open_archive
from fcn.data.palette import palette_image
from fcn.data.split_lists import AUG_MASKS, AUG_SPLIT, SBD_SPLIT, SPLIT_LISTS, Pair, read_split, require_tree
from fcn.errors import ConfigError, DataError
from fcn.runs.atomic_files import new_folder, write_text


def add_sbd(root: Path) -> dict[str, int]:
    """Create SegmentationClassAug and the lists train_aug and sbd_train, each unless it exists.

    Downloads SBD's archive (1.4 GB) into `root` unless it is there. The folder of masks appears complete or not at all.

    Args:
        root: folder that contains VOCdevkit/VOC2012, or that folder itself.

    Returns:
        The number of images in the lists that were written, by their names.

    Raises:
        DataError: if VOC's lists or masks are missing, or the download or the conversion fails.
    """
    from torchvision.datasets import SBDataset  # takes seconds to import

    tree = require_tree(root)
    lists = {name: tree / SPLIT_LISTS / f"{name}.txt" for name in (AUG_SPLIT, SBD_SPLIT)}
    missing = [name for name, path in lists.items() if not path.is_file()]
    if not missing and (tree / AUG_MASKS).is_dir():
        return {}
    train, val = read_split(root, "train"), read_split(root, "val")
    archive = fetch_archive(root, SBDataset.filename, md5=SBDataset.md5, urls=[SBDataset.url])
    try:
        sbd = _convert(archive, tree, [*train, *val])
        train_aug = {*sbd["train"], *sbd["val"], *(pair.name for pair in train)} - {pair.name for pair in val}
        names = {AUG_SPLIT: sorted(train_aug), SBD_SPLIT: sbd["train"]}
        for name in missing:
            write_text(lists[name], "".join(f"{image}\n" for image in names[name]))
    except (OSError, tarfile.TarError) as error:
        remedy = "make room for 200 MB, or delete the archive, and try again"
        raise DataError(f"converting {archive} into {tree / AUG_MASKS} failed: {error}", remedy) from error
    return {name: len(names[name]) for name in missing}


def require_scipy() -> None:
    """Check that SciPy is installed, which reads the masks of SBD.

    Raises:
        ConfigError: naming the extra to install.
    """
    if importlib.util.find_spec("scipy") is None:
        raise ConfigError('sbd (=true) needs SciPy; use pip install -e ".[sbd]"')


def _convert(archive: Path, tree: Path, own: Sequence[Pair]) -> dict[str, list[str]]:
    """Return SBD's lists by name. Write its masks and, over them, VOC's own masks, unless their folder exists."""
    folder, lists = tree / AUG_MASKS, {}
    with nullcontext() if folder.is_dir() else new_folder(folder) as masks, open_archive(archive) as tar:
        for member in tar:
            path = PurePosixPath(member.name)
            if path.match("dataset/*.txt"):
                lists[path.stem] = _content(tar, member).decode("ascii").split()
            elif masks and path.match("cls/*.mat"):
                palette_image(_read_mask(_content(tar, member))).save(masks / f"{path.stem}.png")
        if masks:
            for pair in own:
                shutil.copyfile(pair.mask, masks / f"{pair.name}.png")
    return lists


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    assert file is not None, member.name
    return file.read()


def _read_mask(content: bytes) -> NDArray[np.uint8]:
    """Return the class indices in a file of the folder cls, uint8 [H, W]."""
    from scipy.io import loadmat

    mask: NDArray[np.uint8] = loadmat(BytesIO(content), variable_names=["GTcls"])["GTcls"][0]["Segmentation"][0]
    return mask.astype(np.uint8, casting="safe")

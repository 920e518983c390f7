"""The images of a dataset: where they are, drawn or downloaded if necessary, and the images of a split.

Imports no Lightning: evaluation needs the images without the data module of training.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fcn.config import ConfigError, DataConfig, DatasetName
from fcn.data import cache, download, shapes, voc
from fcn.data.datasets import WholeImages
from fcn.data.voc import DataError


def locate_root(data: DataConfig, *, prepare: bool) -> Path:
    """Folder that holds VOCdevkit/VOC2012; with `prepare`, after drawing or downloading what is absent."""
    root = Path(data.root)
    if data.name is DatasetName.shapes:
        if data.classes != list(shapes.CLASSES):
            own = f"the embedded set's own under data=shapes: {list(shapes.CLASSES)}"
            raise ConfigError(f"data.classes must be {own}; use data=voc for images of your own")
        size = data.shapes
        options = {"num_train": size.num_train, "num_val": size.num_val, "seed": size.seed}
        try:
            return shapes.ensure_shapes(root / "shapes", **options)
        except OSError as error:
            problem = f"data.root (={root}) must be a folder in which the embedded set can be drawn: {error.strerror}"
            raise DataError(problem, "use data.root=<a folder of yours with 10 MB free>") from error
    if prepare and data.download:
        download.download(root)
    return root


def split_images(data: DataConfig, root: Path, split: str) -> WholeImages:
    """The images of a split below the folder that `locate_root` gives, out of their cache if it is there.

    Raises:
        DataError: if there is no such set or split, or the split's list is empty or names a file that is not there.
    """
    pairs = voc.read_split(root, split)
    options: dict[str, Any] = {"num_classes": len(data.classes)}
    folders = cache.cache_folders(root, data.cache_dir)
    decoded = cache.find(pairs, split, folders=folders, **options) if data.cache else None
    return WholeImages(pairs, decoded=decoded, **options)

"""Location of a dataset, and the images of its splits.

Imports no Lightning: evaluation needs the images without the data module of training.
"""

from __future__ import annotations

from pathlib import Path

from fcn.config import ConfigError, DataConfig
from fcn.config.choices import DatasetName
from fcn.data import cache, download, shapes, voc
from fcn.data.datasets import WholeImages
from fcn.data.voc import DataError


def locate_root(data: DataConfig, *, prepare: bool) -> Path:
    """Return the folder that contains VOCdevkit/VOC2012; with `prepare`, missing data are drawn or downloaded first.

    Raises:
        ConfigError: if `data.classes` are not those of the synthetic dataset.
        DataError: if the dataset cannot be drawn or downloaded.
    """
    root = Path(data.root)
    if data.name is DatasetName.shapes:
        if data.classes != list(shapes.CLASSES):
            own = f"data.classes must be those of the synthetic dataset under data=shapes: {list(shapes.CLASSES)}"
            raise ConfigError(f"{own}; use data=voc for your own images")
        size = data.shapes
        options = {"num_train": size.num_train, "num_val": size.num_val, "seed": size.seed}
        try:
            return shapes.ensure_shapes(root / "shapes", **options)
        except OSError as error:
            problem = f"data.root (={root}) must be a folder to which the dataset can be written: {error.strerror}"
            raise DataError(problem, "use data.root=<a writable folder with 10 MB free>") from error
    if prepare and data.download:
        download.download(root)
    return root


def split_images(data: DataConfig, root: Path, split: str) -> WholeImages:
    """Return the images of a split below the folder that `locate_root` returns, from their cache if it exists.

    Raises:
        DataError: if the set or the split is missing, or the list is empty or names a missing file.
    """
    pairs, num_classes = voc.read_split(root, split), len(data.classes)
    folder = cache.cache_folder(root, data.cache_dir)
    decoded = cache.open_cache(pairs, split, num_classes=num_classes, folder=folder) if data.cache else None
    return WholeImages(pairs, num_classes=num_classes, decoded=decoded)

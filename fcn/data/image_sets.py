"""Images of the splits of a dataset.

Imports no Lightning: evaluation needs the images without the data module of training.
"""

from __future__ import annotations

from pathlib import Path

from fcn.config import DataConfig
from fcn.data import cache
from fcn.data.datasets import WholeImages
from fcn.data.split_lists import read_split


def split_images(data: DataConfig, root: Path, split: str) -> WholeImages:
    """Return the images of a split below the folder that `DataConfig.locate` returns, from their cache if it exists.

    Raises:
        DataError: if the set or the split is missing, or the list is empty or names a missing file.
    """
    pairs, num_classes = read_split(root, split), len(data.classes)
    folder = cache.cache_folder(root, data.cache_dir)
    decoded = cache.open_cache(pairs, split, num_classes=num_classes, folder=folder) if data.cache else None
    return WholeImages(pairs, num_classes=num_classes, decoded=decoded)

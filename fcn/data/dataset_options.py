"""Options of the group `data`: the datasets with their own keys and defaults."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from fcn.config import AugmentationConfig, Config, ConfigError, DataConfig, component, setting

SHAPES_CLASSES = ["background", "disc", "square", "triangle", "star", "cross"]


@dataclass(kw_only=True, slots=True)
class ShapesConfig:
    """Size and seed of the built-in synthetic dataset (`data=shapes`)."""

    num_train: int = setting(400, "number of training images", low=1)
    num_val: int = setting(80, "number of validation images", low=1)
    seed: int = setting(0, "seed of the images, independent of the seed of the run", low=0)


@component("data", "shapes")
class ShapesData(DataConfig):
    """Built-in synthetic dataset, written to data/shapes in a few seconds; see fcn/data/shapes.py."""

    classes: list[str] = setting(SHAPES_CLASSES, "class names in the order of the mask indices; 0 is the background")
    crop_size: list[int] = setting([96, 96], "height and width of the training crop in pixels", low=1)
    augmentation: AugmentationConfig = field(default_factory=lambda: AugmentationConfig(flip=0.5))
    shapes: ShapesConfig = field(default_factory=ShapesConfig)

    def check(self, config: Config) -> None:
        if self.classes != SHAPES_CLASSES:
            raise ConfigError(
                f"data.classes must be those of the synthetic dataset under data=shapes: {SHAPES_CLASSES}; use "
                "data=voc for your own images"
            )

    def locate(self, *, prepare: bool) -> Path:
        from fcn.data.shapes import ensure_shapes
        from fcn.errors import DataError

        root, size = Path(self.root), self.shapes
        options = {"num_train": size.num_train, "num_val": size.num_val, "seed": size.seed}
        try:
            return ensure_shapes(root / "shapes", **options)
        except OSError as error:
            problem = f"data.root (={root}) must be a folder to which the dataset can be written: {error.strerror}"
            raise DataError(problem, "use data.root=<a writable folder with 10 MB free>") from error


@component("data", "voc")
class VocData(DataConfig):
    """Pascal VOC 2012, or another dataset in its layout."""

    download: bool = setting(False, "download VOC2012 (2 GB) into data.root if it is missing")
    augmentation: AugmentationConfig = field(default_factory=lambda: AugmentationConfig(scale=[0.5, 2.0], flip=0.5))

    def locate(self, *, prepare: bool) -> Path:
        from fcn.data.download import download

        root = Path(self.root)
        if prepare and self.download:
            download(root)
        return root

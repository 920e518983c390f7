"""Settings of the benchmarks, the configurations of measured runs, and the images that they read. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from fcn.config import Config
from fcn.config.composition import compose
from fcn.data import palette, shapes
from fcn.data.split_lists import SPLIT_LISTS, TREE, Pair, read_split

MAX_DRAWN = 24
"""Number of different images in a drawn tree; further images are links to these."""

VOC_SIZE = (375, 500)
"""Height and width of most images of VOC."""


@dataclass(frozen=True)
class Variant:
    """How the network computes: `trainer.precision`, and whether it is compiled."""

    precision: str
    compile: bool = False

    def __str__(self) -> str:
        return f"{self.precision}, compiled" if self.compile else self.precision

    @property
    def overrides(self) -> list[str]:
        return [f"trainer.precision={self.precision}", f"compile={str(self.compile).lower()}"]


@dataclass(frozen=True)
class Settings:
    """Settings of all benchmarks of one command.

    Attributes:
        on_gpu: whether benchmarks run on a GPU.
        rounds: number of rounds of all contestants.
        steps: measured steps per round.
        batch_size: images per step.
        size: height and width of the training crop, pixels.
        variants: variants that are measured one after the other.
        folder: empty folder for trees and run directories.
        overrides: overrides from the command line, appended to those of the benchmarks.
        data_root: folder that contains VOCdevkit/VOC2012; None draws images of VOC's size.
        quick: whether the benchmarks only check that they run.
        log: function that is called with a line of progress.
    """

    on_gpu: bool
    rounds: int
    steps: int
    batch_size: int
    size: tuple[int, int]
    variants: Sequence[Variant]
    folder: Path
    overrides: Sequence[str] = ()
    data_root: Path | None = None
    quick: bool = False
    log: Callable[[str], object] = lambda line: None

    @property
    def device(self) -> str:
        return "cuda" if self.on_gpu else "cpu"

    @property
    def goals_apply(self) -> bool:
        """Whether crop and batch are those for which goals are defined."""
        return self.size == (320, 480) and self.batch_size == (32 if self.on_gpu else 8)

    @property
    def process_rounds(self) -> int:
        """Number of rounds of benchmarks that start processes."""
        return min(self.rounds, 1 if self.quick else 3)

    def config(self, tree: Path, variant: Variant, *overrides: str) -> Config:
        """Compose the d2l training on the images of `tree`.

        Raises:
            ConfigError: if an override is invalid.
        """
        return compose(
            "experiment=d2l",
            "data.protocol=voc",
            "data.download=false",
            "backbone.weights=none",
            "lr=1e-4",  # low enough for any number of steps from random weights
            f"trainer={'gpu' if self.on_gpu else 'cpu'}",
            f"data.root={tree}",
            f"batch_size={self.batch_size}",
            "data.crop_size=[{},{}]".format(*self.size),
            *variant.overrides,
            *overrides,
            *self.overrides,
        )


def make_tree(folder: Path, *, num_train: int, num_val: int = 1, source: Path | None = None) -> Path:
    """Create a VOC tree of any number of images, which are links to those of `source` or to drawn images.

    Args:
        folder: folder of the tree; it must not exist.
        num_train: number of images in train.txt.
        num_val: number of images in val.txt, the first ones of train.txt.
        source: folder that contains VOCdevkit/VOC2012; None draws up to `MAX_DRAWN` images of `VOC_SIZE`.

    Returns:
        `folder`.

    Raises:
        DataError: if `source` does not contain VOC.
    """
    tree = folder / TREE
    for name in ("JPEGImages", "SegmentationClass", SPLIT_LISTS):
        (tree / name).mkdir(parents=True)
    pairs = draw_pairs(folder / "drawn", min(MAX_DRAWN, num_train)) if source is None else read_split(source, "train")
    names = [f"{number:06d}" for number in range(num_train)]
    for number, name in enumerate(names):
        pair = pairs[number % len(pairs)]
        (tree / "JPEGImages" / f"{name}.jpg").symlink_to(pair.image.absolute())
        (tree / "SegmentationClass" / f"{name}.png").symlink_to(pair.mask.absolute())
    for split, listed in (("train", names), ("val", names[:num_val])):
        (tree / SPLIT_LISTS / f"{split}.txt").write_text("\n".join(listed), encoding="utf-8")
    return folder


def draw_pairs(folder: Path, count: int) -> list[Pair]:
    """Write images of the synthetic dataset, enlarged to `VOC_SIZE` and with noise: files of about VOC's size."""
    folder.mkdir()
    pairs = []
    height, width = VOC_SIZE
    for number in range(count):
        rng = np.random.default_rng(number)
        image, mask = (Image.fromarray(array) for array in shapes.draw_sample(rng))
        enlarged = np.asarray(image.resize((width, height), Image.Resampling.BICUBIC))
        pixels = enlarged + rng.normal(0, 8, (height, width, 1))
        pair = Pair(str(number), folder / f"{number}.jpg", folder / f"{number}.png")
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(pair.image, quality=92)
        palette.palette_image(np.asarray(mask.resize((width, height), Image.Resampling.NEAREST))).save(pair.mask)
        pairs.append(pair)
    return pairs
